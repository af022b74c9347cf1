"""What the page's handlers know: the meters of this process, and how the service is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from iem_dcr.driver.rate_limited_log import RateLimitedLog
    from iem_dcr.service.metrics import Metrics
    from iem_dcr.service.observation import ObservedMeter
    from iem_dcr.service.standing import Standing
    from iem_dcr.service.web.access import Access
    from iem_dcr.service.web.book import ReceiptBook
    from iem_dcr.service.web.streams import Streams

Handler: TypeAlias = "Callable[[web.Request], Awaitable[web.StreamResponse]]"


@dataclass(frozen=True, slots=True)
class Site:
    """What there is to show.

    Attributes:
        meters: in the order of the configuration.
        status: how the service is, in a line.
        standing: how the service is, for programs.
        access: checks tokens.
        receipts: finds a meter's latest receipts.
        metrics: writes what is counted, for Prometheus.
        streams: serves events.
        failures: the log of what anybody can bring about.
    """

    meters: Sequence[ObservedMeter]
    status: Callable[[], str]
    standing: Callable[[], Standing]
    access: Access
    receipts: ReceiptBook
    metrics: Metrics
    streams: Streams
    failures: RateLimitedLog

    def meter(self, name: str) -> ObservedMeter:
        """Return the meter of a name, or of an address: that is what it is called until its module_id is known.

        Raises:
            aiohttp.web.HTTPNotFound: there is none.
        """
        found = [meter for meter in self.meters if name in (meter.name, meter.address)]
        if not found:
            raise web.HTTPNotFound(reason="There is no such meter.")
        return next((meter for meter in found if name == meter.name), found[0])


@dataclass(frozen=True, slots=True)
class Route:
    """A path, and what answers it.

    Attributes:
        path: as aiohttp's router takes it.
        handler: answers it.
        method: GET, which is HEAD too, or POST.
        is_open: answered without the token: for what tells nothing of meters or persons.
        is_stream: its answer has no end; it is counted and bounded as a stream, and not in time.
    """

    path: str
    handler: Handler
    method: str = "GET"
    is_open: bool = False
    is_stream: bool = False
