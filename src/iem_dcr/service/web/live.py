"""The pages that are kept up to date, and the events that do so."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.timing import now_s
from iem_dcr.service.history import STEP_S, slot_of
from iem_dcr.service.web import layout, meter_view
from iem_dcr.service.web.html import page
from iem_dcr.service.web.site import Route
from iem_dcr.service.web.streams import event
from iem_dcr.service.web.view import Row, View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from aiohttp import web

    from iem_dcr.service.observation import ObservedMeter
    from iem_dcr.service.web.site import Site

BEAT_S: Final = 2.0
"""A stream says something at least so often, so that a browser knows that it lives."""
PAUSE_S: Final = 0.25
"""Between two events of one stream."""
_AT_A_TIME: Final = 50
"""Of so many meters a view is made before others have their turn."""
_METERS_A_SECOND: Final = 250


def routes(site: Site) -> Iterable[Route]:
    """Return the routes of the live pages."""
    glance = _Glance(site)

    async def all_meters(_request: web.Request) -> web.Response:
        return page(await glance.page())

    async def all_events(request: web.Request) -> web.StreamResponse:
        return await site.streams.serve(request, glance.events())

    async def one_meter(request: web.Request) -> web.Response:
        meter = site.meter(request.match_info["name"])
        rows, note = await site.receipts.rows(meter)
        return page(layout.meter_page(meter, meter_view.detail(meter, rows, note)))

    async def one_meters_events(request: web.Request) -> web.StreamResponse:
        return await site.streams.serve(request, _events_of(site, site.meter(request.match_info["name"])))

    yield Route("/", all_meters)
    yield Route("/events", all_events, is_stream=True)
    yield Route("/meters/{name}", one_meter)
    yield Route("/meters/{name}/events", one_meters_events, is_stream=True)


class _Glance:
    """All meters at a glance, made once for all who look, and only while somebody does."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._every_s = max(1.0, len(site.meters) / _METERS_A_SECOND)
        self._making: asyncio.Task[None] | None = None
        self._made_s = float("-inf")
        self._view = self._before = View()
        self._changes = self._whole = b""
        self._page = ""

    async def page(self) -> str:
        """Return the page, made once for all who ask for it meanwhile."""
        view = await self.view()
        self._page = self._page or layout.overview_page(view, len(self._site.meters))
        return self._page

    async def view(self) -> View:
        """Return what there is to see, at most so old as it takes to be made anew."""
        if self._making is None and now_s() - self._made_s >= self._every_s * 0.9:
            # A task of its own: one that ended with who asked would be begun anew for everybody who comes and leaves.
            self._making = asyncio.create_task(self._make())
            self._making.add_done_callback(self._is_made)
        if self._making is not None:
            await asyncio.shield(self._making)
        return self._view

    async def _make(self) -> None:
        rows: list[Row] = []
        meters = self._site.meters
        for start in range(0, len(meters), _AT_A_TIME):
            rows += map(meter_view.row, meters[start : start + _AT_A_TIME])
            await asyncio.sleep(0)
        self._before, self._view = self._view, meter_view.overview(tuple(rows), self._site.status())
        self._changes = self._whole = b""
        self._page = ""
        self._made_s = now_s()

    def _is_made(self, task: asyncio.Task[None]) -> None:
        self._making = None
        if not task.cancelled():
            task.exception()  # who waits has it

    async def events(self) -> AsyncIterator[bytes]:
        """Yield everything, and then what changes."""
        shown: View | None = None
        while True:
            view = await self.view()
            if shown is None and view is self._view:
                # Written once for all who come meanwhile: of a thousand meters it takes a while.
                self._whole = self._whole or event("view", view.changes(View()))
                yield self._whole
            elif shown is self._before and view is self._view:
                self._changes = self._changes or event("view", view.changes(shown))
                yield self._changes
            else:
                yield event("view", view.changes(shown or View()))
            shown = view
            await asyncio.sleep(self._every_s)


async def _events_of(site: Site, meter: ObservedMeter) -> AsyncIterator[bytes]:
    """Yield the last half hour of a meter, and then what changes."""
    yield event("history", _history(meter))
    shown = View()
    known: tuple[object, ...] | None = None
    rows: tuple[Row, ...] = ()
    note = ""
    while True:
        # The journal is asked by the serial number, which the first value tells, or another meter's, once it is open.
        now_known = meter.serial, meter.journal_path, meter.receipts_version
        if now_known != known:
            known = now_known
            rows, note = await site.receipts.rows(meter)
        view = meter_view.detail(meter, rows, note)
        yield event("view", view.changes(shown) | _sample(meter))
        shown = view
        await asyncio.sleep(PAUSE_S)
        await meter.changed(BEAT_S - PAUSE_S)


def _history(meter: ObservedMeter) -> dict[str, object]:
    series = meter.history.series(now_s())
    return _clock() | {
        "serial": meter.serial,
        "first": series.first,
        "voltage": series.voltage_v,
        "current": series.current_a,
        "power": series.power_w,
        "energy": series.import_wh,
    }


def _sample(meter: ObservedMeter) -> dict[str, object]:
    """Return the last value for the charts, if there was one within the last slot."""
    sight = meter.sight()
    value = sight.value
    if value is None or sight.age_s is None or sight.age_s > STEP_S:
        return _clock()
    numbers = [None if each is None else float(each) for each in (value.U2, value.I, value.P, value.import_wh)]
    return _clock() | {"serial": meter.serial, "slot": slot_of(now_s() - sight.age_s), "values": numbers}


def _clock() -> dict[str, object]:
    """Return what makes a time of a slot, in milliseconds since 1970: now, the host's time at slot 0, and its zone."""
    now = datetime.now().astimezone()
    offset = now.utcoffset()
    return {
        "now_ms": round(now.timestamp() * 1000),
        "zero_ms": round((now.timestamp() - now_s()) * 1000),
        "step_ms": round(STEP_S * 1000),
        "offset_ms": 0 if offset is None else round(offset.total_seconds() * 1000),
    }
