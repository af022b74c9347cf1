"""The paths of the page and their handlers."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import logging
import math
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from aiohttp import web

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import JournalError, ReceiptError, printable
from iem_dcr.ocmf.export import Format, Item, export
from iem_dcr.service.history import COARSE_SPAN_S, SPAN_S
from iem_dcr.service.metrics import Metrics
from iem_dcr.web import live, templates
from iem_dcr.web.auth import SESSION_S
from iem_dcr.web.middleware import LOGIN, STATIC
from iem_dcr.web.receipts import ReceiptList, receipt_view
from iem_dcr.web.views import MeterView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iem_dcr.service.observation import Health, ObservedMeter
    from iem_dcr.web.auth import Auth
    from iem_dcr.web.live import Streams
    from iem_dcr.web.receipts import Found

_log = logging.getLogger(__name__)

RANGES: Final = {"10min": ("10 minutes", 600.0), "30min": ("30 minutes", SPAN_S), "24h": ("24 hours", COARSE_SPAN_S)}
"""The ranges of the charts: name and seconds."""
_RANGE: Final = "30min"
_FEW: Final = 8
"""With more meters than this, the page has a search field."""
_AT_FIRST: Final = 200
"""Number of meters on the page when it is loaded. The stream adds the others."""
_FORM_TIMEOUT_S: Final = 10.0
_WRONG_TOKEN_S: Final = 0.5
"""Delay of the answer to a wrong token."""
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Pages:
    """The handlers and their sources.

    Args:
        meters: in the order of the configuration.
        status: returns the status of the service in one line.
        health: returns the health of the service.
        auth: checks tokens.
        streams: serves events.
    """

    def __init__(
        self,
        meters: Sequence[ObservedMeter],
        status: Callable[[], str],
        health: Callable[[], Health],
        auth: Auth,
        streams: Streams,
    ) -> None:
        self._meters = meters
        self._health = health
        self._auth = auth
        self._streams = streams
        self._receipts = ReceiptList()
        self._metrics = Metrics(meters, health)
        self._failures = RateLimitedLog(_log, now_s)
        self._overview = live.Overview(meters, status)
        files = [file for file in Path(__file__).with_name("static").iterdir() if file.suffix in _TYPES]
        self._files = {file.name: (file.read_bytes(), _TYPES[file.suffix]) for file in files}

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the table of paths."""
        return [
            web.get("/", self._all_meters),
            web.get("/events", self._events),
            web.get("/meters/{name}", self._one_meter),
            web.get("/meters/{name}/events", self._meter_events),
            web.get("/meters/{name}/history.csv", self._history_csv),
            web.get("/meters/{name}/receipts/{key}.xml", self._receipt_xml),
            web.get("/meters/{name}/receipts/{key}", self._receipt),
            web.get("/metrics", self._metrics_text),
            web.get("/health/live", self._live),
            web.get("/health/ready", self._ready),
            web.get(STATIC, self._static),
            web.get(LOGIN, self._login),
            web.post(LOGIN, self._take_token),
        ]

    def close(self) -> None:
        """End the threads that read and check receipts."""
        self._receipts.close()

    # --- meters ---

    async def _all_meters(self, _request: web.Request) -> web.Response:
        text, *cards = await self._overview.parts()
        more = len(cards) - _AT_FIRST
        return _page("overview.html", text=text, cards=cards[:_AT_FIRST], more=more, has_search=len(cards) > _FEW)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        return await self._streams.serve(request, self._overview.events())

    async def _one_meter(self, request: web.Request) -> web.Response:
        meter = self._meter(request)
        rows, note = await self._receipts.rows(meter)
        chosen = request.query.get("range", _RANGE)
        chosen = chosen if chosen in RANGES else _RANGE
        return _page("meter.html", view=MeterView.of(meter), rows=rows, note=note, ranges=RANGES, chosen=chosen)

    async def _meter_events(self, request: web.Request) -> web.StreamResponse:
        events = live.meter_events(self._meter(request), self._receipts, _range_s(request))
        return await self._streams.serve(request, events)

    async def _history_csv(self, request: web.Request) -> web.Response:
        meter = self._meter(request)
        series = meter.history.series(now_s(), _range_s(request))
        first = datetime.now().astimezone() - timedelta(seconds=now_s() - series.first_s)
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("time", "power_w", "voltage_v", "current_a", "import_wh"))
        columns = zip(series.power_w, series.voltage_v, series.current_a, series.import_wh, strict=True)
        for number, row in enumerate(columns):
            if any(value is not None for value in row):
                time = first + timedelta(seconds=number * series.step_s)
                writer.writerow((time.isoformat(timespec="seconds"), *row))
        return _download(text.getvalue(), "text/csv", f"{meter.name}-{request.query.get('range', _RANGE)}", "csv")

    def _meter(self, request: web.Request) -> ObservedMeter:
        """Return the meter of a path, by its name or its address. An old link may have the address."""
        name = request.match_info["name"]
        for known in ("name", "address"):
            for meter in self._meters:
                if getattr(meter, known) == name:
                    return meter
        raise web.HTTPNotFound(text="There is no such meter.")

    # --- one receipt ---

    async def _receipt(self, request: web.Request) -> web.Response:
        meter, found = await self._found(request)
        view = MeterView.of(meter)
        return _page("receipt.html", view=view, key=request.match_info["key"], **receipt_view(found))

    async def _receipt_xml(self, request: web.Request) -> web.Response:
        """Answer with the receipt for the transparency software, as the meter signed it."""
        meter, found = await self._found(request)
        item = Item(found.receipt, found.public_key, found.transaction_id)
        text = export([item], Format.TRANSPARENCY).text
        return _download(text, "application/xml", f"{meter.name}-{found.receipt.pagination or 'receipt'}", "xml")

    async def _found(self, request: web.Request) -> tuple[ObservedMeter, Found]:
        meter = self._meter(request)
        try:
            found = await self._receipts.find(meter, request.match_info["key"])
        except JournalError as error:
            raise web.HTTPServiceUnavailable(text=printable(error)) from error
        except ReceiptError as error:
            raise web.HTTPNotFound(text=printable(error)) from error
        if found is None:
            raise web.HTTPNotFound(text="There is no such receipt, or it no longer exists.")
        return meter, found

    # --- for programs ---

    async def _metrics_text(self, request: web.Request) -> web.Response:
        """Answer with the metrics. They require the token, because they show when and how much is charged."""
        body, content_type = await self._metrics.text(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _live(self, _request: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        """Answer whether the service accepts requests for every meter from the broker, whatever the meters' state."""
        is_ready = self._health().is_ready
        return web.Response(status=200 if is_ready else 503, text="ready\n" if is_ready else "not ready\n")

    async def _static(self, request: web.Request) -> web.Response:
        """Answer with a file of the page. A browser keeps it, but asks each time whether it has changed."""
        if (name := request.match_info["name"]) not in self._files:
            raise web.HTTPNotFound(text="There is no such file.")
        content, content_type = self._files[name]
        tag = hashlib.sha256(content).hexdigest()[:16]
        headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache"}
        if request.if_none_match and tag in (known.value for known in request.if_none_match):
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, content_type=content_type, charset="utf-8", headers=headers)

    # --- the token ---

    async def _login(self, request: web.Request) -> web.Response:
        if self._auth.may_see(request):
            raise web.HTTPSeeOther("/")
        return _page("login.html", problem="")

    async def _take_token(self, request: web.Request) -> web.Response:
        address = request.remote or ""
        if (wait_s := math.ceil(self._auth.wait_s(address))) > 0:
            response = _page("login.html", 429, problem=f"Too many wrong tokens: try again in {wait_s} s.")
            response.headers["Retry-After"] = str(wait_s)
            return response
        try:
            async with asyncio.timeout(_FORM_TIMEOUT_S):
                form = parse_qs((await request.read()).decode("utf-8", "replace"))
        except (TimeoutError, web.RequestPayloadError):
            raise web.HTTPBadRequest(text="The form was not received completely.") from None
        if not self._auth.is_token(form.get("token", [""])[0].strip(), address):
            self._failures.warning("a wrong token for the bring-up page came from %s", address)
            await asyncio.sleep(_WRONG_TOKEN_S)
            return _page("login.html", 403, problem="That is not the token.")
        redirection = web.HTTPSeeOther("/")
        redirection.set_cookie(
            self._auth.cookie,
            self._auth.session(),
            max_age=SESSION_S,
            httponly=True,
            samesite="Strict",
            # Behind a proxy with TLS only the browser knows that the connection is encrypted.
            secure=request.headers.get("Origin", "").startswith("https:"),
        )
        raise redirection


def _page(template: str, status: int = 200, **context: object) -> web.Response:
    return web.Response(status=status, text=templates.render(template, **context), content_type="text/html")


def _download(text: str, content_type: str, name: str, suffix: str) -> web.Response:
    name = _NOT_IN_A_NAME.sub("-", name)[:80].strip("-.") or "iem-dcr"
    disposition = f'attachment; filename="{name}.{suffix}"'
    return web.Response(text=text, content_type=content_type, headers={"Content-Disposition": disposition})


def _range_s(request: web.Request) -> float:
    chosen = request.query.get("range", _RANGE)
    if chosen not in RANGES:
        raise web.HTTPBadRequest(text=f"range is {printable(chosen)}: expected one of {', '.join(RANGES)}.")
    return RANGES[chosen][1]
