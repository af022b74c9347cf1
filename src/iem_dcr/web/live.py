"""Streams of server-sent events that keep a page up to date: its changed parts, as HTML rendered by the server.

Their number is limited, and slow readers are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import printable
from iem_dcr.web import templates
from iem_dcr.web.views import MeterView, summary

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from iem_dcr.service.observation import ObservedMeter
    from iem_dcr.web.receipts import ReceiptList, Row

_log = logging.getLogger(__name__)

MAX_STREAMS: Final = 24
"""Further clients are asked to retry later."""
READ_TIMEOUT_S: Final = 10.0
"""A reader that does not accept an event within this time is dropped."""
BUFFER_BYTES: Final = 16 * 1024
"""Bytes that may wait for a reader here, and about as many in the kernel. So a slow reader is noticed early."""
LIFETIME_S: Final = 3600.0
"""A stream ends after this time. The browser reconnects, and its cookie is checked again."""
BEAT_S: Final = 2.0
"""A stream sends something at least this often, so that a browser knows that it is alive."""
PAUSE_S: Final = 0.25
"""Least time between two events of one stream."""
_AT_A_TIME: Final = 50
"""Number of meters that are rendered before other tasks get their turn."""
_METERS_PER_S: Final = 250
_NEW_SLOTS: Final = 2
"""The part of a series that is sent again: the current slot and the one before."""


class Streams:
    """Serves streams.

    Attributes:
        count: number of open streams.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mistakes = RateLimitedLog(_log, now_s)

    async def serve(self, request: web.Request, events: AsyncGenerator[bytes]) -> web.StreamResponse:
        """Send events, until the reader leaves."""
        if request.method == "HEAD":
            return web.Response()
        if self.count >= MAX_STREAMS:
            return web.Response(status=503, text="Too many streams are open.\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )
        response.force_close()
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=BUFFER_BYTES)
            with contextlib.suppress(OSError):  # the reader has left already
                request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self.count += 1
        try:
            async with contextlib.aclosing(events):
                await response.prepare(request)
                ends_s = now_s() + LIFETIME_S
                async for one in events:
                    async with asyncio.timeout(READ_TIMEOUT_S):
                        await response.write(one)
                    if now_s() > ends_s:
                        break
        except ConnectionError:
            pass  # the reader has left
        except TimeoutError:
            _break_off(request)
        except Exception as error:  # noqa: BLE001  as in `middleware`, but a started stream cannot contain another answer
            self._mistakes.warning("the page could not answer %s: %s", printable(request.path), printable(repr(error)))
            _log.debug("details of the failure", exc_info=error)
            _break_off(request)
        finally:
            self.count -= 1
        return response


class Overview:
    """The parts of the overview page: rendered once for all viewers, and only while there are viewers.

    Args:
        meters: in their order.
        status: returns the status of the service in one line.
    """

    def __init__(self, meters: Sequence[ObservedMeter], status: Callable[[], str]) -> None:
        self._meters = meters
        self._status = status
        self._period_s = max(1.0, len(meters) / _METERS_PER_S)
        self._parts: list[str] = []
        self._made_s = float("-inf")
        self._making = asyncio.Lock()

    async def parts(self) -> list[str]:
        """Return the summary, followed by the card of each meter in their order."""
        async with self._making:
            if now_s() - self._made_s >= self._period_s * 0.9:
                self._parts = await self._render()
                self._made_s = now_s()
            return self._parts

    async def events(self) -> AsyncGenerator[bytes]:
        """Yield all parts, and then the changes."""
        parts = await self.parts()
        yield _view({"parts": [parts[0], templates.render("meters.html", cards=parts[1:])]})
        while True:
            await asyncio.sleep(self._period_s)
            before, parts = parts, await self.parts()
            yield _view({"parts": _changed(before, parts)})

    async def _render(self) -> list[str]:
        cards: list[str] = []
        states: list[str] = []
        for number, meter in enumerate(self._meters):
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            view = MeterView.of(meter)
            states.append(view.state)
            cards.append(templates.render("card.html", id=f"m{number}", view=view))
        return [templates.render("summary.html", summary=summary(states), status=self._status()), *cards]


async def meter_events(meter: ObservedMeter, receipts: ReceiptList, span_s: float) -> AsyncGenerator[bytes]:
    """Yield all parts of a meter with the charts' last ``span_s`` seconds, and then the changes."""
    parts: list[str] = []
    known: tuple[object, ...] | None = None
    rows: tuple[Row, ...] = ()
    note = ""
    slots: int | None = None
    while True:
        # The journal is read again when it opens, and when the meter's serial number becomes known or changes.
        now_known = meter.serial, meter.journal_path, meter.receipts_version
        if now_known != known:
            known = now_known
            rows, note = await receipts.rows(meter)
        before, parts = parts, templates.live_parts("meter.html", view=MeterView.of(meter), rows=rows, note=note)
        yield _view({"parts": _changed(before, parts), "series": _series(meter, span_s, slots)})
        slots = _NEW_SLOTS
        await asyncio.sleep(PAUSE_S)
        await meter.changed(BEAT_S - PAUSE_S)


def _series(meter: ObservedMeter, span_s: float, slots: int | None) -> dict[str, Any]:
    """Return the data of the charts as JSON types. Times are ms since 1970."""
    series = meter.history.series(now_s(), span_s, slots)
    now = datetime.now().astimezone()
    now_ms = round(now.timestamp() * 1000)
    return {
        "serial": meter.serial,
        "now_ms": now_ms,
        "offset_ms": round((now.utcoffset() or timedelta()).total_seconds() * 1000),
        "first_ms": now_ms - round((now_s() - series.first_s) * 1000),
        "step_ms": round(series.step_s * 1000),
        "voltage": series.voltage_v,
        "current": series.current_a,
        "power": series.power_w,
        "energy": series.import_wh,
    }


def _changed(before: list[str], after: list[str]) -> list[str]:
    return [part for part, was in zip_longest(after, before) if part != was]


def _view(data: object) -> bytes:
    return f"event: view\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _break_off(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
