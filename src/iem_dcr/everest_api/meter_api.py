"""One meter on EVerest's API: its driver, its requests and its status. Meters share nothing but the bus."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Final

from iem_dcr.driver import MeterDriver
from iem_dcr.errors import printable
from iem_dcr.everest_api.requests import START, STOP, Requests
from iem_dcr.everest_api.status_publisher import StatusPublisher
from iem_dcr.everest_api.topics import READY_BEACON, Topics, is_module_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from iem_dcr.config import Settings
    from iem_dcr.device.transport import Connect
    from iem_dcr.driver import Journal, Observer, ReceiptSink
    from iem_dcr.everest_api.bus import Bus, Handler

METER: Final[ContextVar[str]] = ContextVar("METER", default="")
"""The module_id of the meter that the running task or handler works for, or "". The log shows it."""
REPLIES_TIMEOUT_S: Final = 1.0
"""How long the replies to running requests may take when `MeterApi.run` ends."""
TURNS: Final = 25
"""The meters of a process are read in this many groups a second."""


class MeterApi:
    """One meter on EVerest's API.

    Args:
        module_id: id of the API module in EVerest's configuration.
        settings: settings of the meter.
        bus: the bus that all meters share.
        sink, journal, observer, wall, connect: see `iem_dcr.driver.MeterDriver`.
        begins_after_s: delay before the first request to the meter, unless a command comes first. The meter is on the
            bus at once.

    Attributes:
        module_id: as given.
        topics: topics of the meter.
        driver: driver of the meter.
        takes_requests: whether requests are taken from the bus.

    Raises:
        ValueError: the module_id cannot stand in a topic.
    """

    def __init__(
        self,
        module_id: str,
        settings: Settings,
        bus: Bus,
        *,
        sink: ReceiptSink | None = None,
        journal: Journal | None = None,
        observer: Observer | None = None,
        begins_after_s: float = 0.0,
        wall: Callable[[], datetime] | None = None,
        connect: Connect | None = None,
    ) -> None:
        if not is_module_id(module_id):
            raise ValueError(f"{printable(module_id, limit=40)} is no module_id")
        self.module_id = module_id
        self.topics = Topics(module_id)
        self.takes_requests = False
        self._bus = bus
        phase = turn_of(module_id)
        self._status = StatusPublisher(
            self.topics, bus, self._last_response_s, lambda: self.driver.public_key, phase=phase
        )
        self.driver = MeterDriver(
            settings,
            self._status,
            sink=sink,
            journal=journal,
            phase=phase,
            observer=observer,
            begins_after_s=begins_after_s,
            wall=wall,
            connect=connect,
        )
        self._requests = Requests(self.driver, bus)

    @property
    def reachable(self) -> bool:
        """Whether the meter can be reached, as published to EVerest. Read it on the loop."""
        return self._status.reachable

    async def run(self) -> None:
        """Serve the meter on the bus until cancelled. Running requests are answered before it returns.

        It may run again after a failure. Meanwhile replies go on waiting for the broker. Run it in a task of its own:
        the lines that this task, its handlers and their tasks log have the meter's name.
        """
        METER.set(self.module_id)
        named: Callable[..., None] = contextvars.copy_context().run
        handlers: dict[str, Handler] = {
            self.topics.start: partial(named, self._requests.take, START),
            self.topics.stop: partial(named, self._requests.take, STOP),
            self.topics.heartbeat: partial(named, self._status.take_heartbeat),
            READY_BEACON: lambda _payload, _retained: named(self._status.announce),
        }
        for topic, handler in handlers.items():
            self._bus.subscribe(topic, handler)
        self.takes_requests = True
        take_back = self._bus.on_connected(partial(named, self._status.announce))
        try:
            await self._work()
        finally:
            # Only now, because a request that comes while others are being answered is answered as well.
            self.takes_requests = False
            take_back()
            for topic, handler in handlers.items():
                self._bus.unsubscribe(topic, handler)
            # Only the cancellation of this task is the end: one that came out of the work is a failure.
            task = asyncio.current_task()
            await self._requests.close(gives_up=task is not None and task.cancelling() > 0)

    async def _work(self) -> None:
        self._status.announce()
        tasks = [asyncio.create_task(self.driver.run()), asyncio.create_task(self._status.run())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise RuntimeError("a task of the meter ended by itself")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._requests.finish(REPLIES_TIMEOUT_S)

    def _last_response_s(self) -> float | None:
        """Return when the meter last answered, or None before a live value has identified the meter."""
        return self.driver.last_response_s if self.driver.value is not None else None


def turn_of(module_id: str) -> float:
    """Return the fraction of a second at which a meter is read.

    The meters of a process are read in groups. A thousand at once would be a burst. One at a time would cost more,
    because the loop, the kernel and the broker do some work only once for a group.
    """
    return int.from_bytes(hashlib.sha256(module_id.encode()).digest()[:4]) % TURNS / TURNS
