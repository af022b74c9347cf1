"""Watches meters beside the program that drives them.

Each meter has its own task. The task sends a GET /metervalue every second, a GET /gw every minute and after a possible
power cut, and a GET /publickey until the key is readable. A meter accepts these three at any time, also during a
transaction. A meter that does not answer is polled again after the time-out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iem_dcr.device.client import MeterClient
from iem_dcr.diagnostics.nodes import PAUSE_S
from iem_dcr.diagnostics.snapshot import key_of, read_value, utc_now
from iem_dcr.diagnostics.status import Sample, StatusTracker, number
from iem_dcr.driver.timing import Schedule, now_s
from iem_dcr.errors import MeterError, ReceiptError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from iem_dcr.device.messages import Gateway
    from iem_dcr.diagnostics.status import Status

INTERVAL_S: Final = 1.0
TIMEOUT_S: Final = 1.9
"""Of each request. A silent meter is thus polled every two seconds. The driver's own time-out is no longer."""
GATEWAY_INTERVAL_S: Final = 60.0
RETRY_INTERVAL_S: Final = 10.0
"""Of /gw and /publickey while they give no usable answer."""
REMEMBERED_S: Final = 300.0


class WatchedMeter:
    """One watched meter. Times are shown in the zone of ``wall``, the host's clock."""

    def __init__(self, host: str, port: int, wall: Callable[[], datetime] = utc_now) -> None:
        self._client = MeterClient(host, port, timeout_s=TIMEOUT_S, pause_s=PAUSE_S)
        self._wall = wall
        self.address = self._client.address
        self._tracker = StatusTracker()
        self._samples: deque[Sample] = deque(maxlen=round(REMEMBERED_S / INTERVAL_S))
        self._forget()

    @property
    def has_answered(self) -> bool:
        """Whether the meter has ever given a live value."""
        return self._tracker.value is not None

    async def run(
        self, on_poll: Callable[[WatchedMeter], None], *, phase: float | None = None, count: int | None = None
    ) -> None:
        """Poll the meter every second.

        Args:
            on_poll: called after each poll, including failed ones.
            phase: fraction of a second at which the meter is polled, from the second poll on; 0.0 to below 1.0.
            count: number of polls; None polls until cancelled.
        """
        schedule = Schedule(INTERVAL_S, phase)
        while count is None or count > 0:
            await self.poll()
            on_poll(self)
            await self._poll_other_nodes()
            if count is not None:
                count -= 1
                if not count:
                    return
            schedule.advance()
            await asyncio.sleep(max(0.0, schedule.next_s - now_s()))

    async def poll(self) -> None:
        """Read a live value once. An error of the meter goes into the status and is not raised."""
        await self._client.pause()
        asked, asked_s = self._wall(), now_s()
        try:
            timed = await read_value(self._client, self._wall)
        except MeterError as error:
            self._tracker.on_failure(error.brief, asked, asked_s)
            return
        value = timed.value
        change = self._tracker.on_value(value, timed.read_at)
        if change.is_another_meter:
            self._forget()
        if change.has_gap:
            self._due_s["/gw"] = now_s()
        self._samples.append(Sample(self._tracker.read_s, number(value.P), number(value.U2), number(value.I)))

    def status(self) -> Status:
        """Return the current status. Must be called on the event loop."""
        status = self._tracker.status(self.address)
        return replace(
            status,
            gateway=self._gateway,
            node_problems=tuple(self._node_problems.items()),
            samples=tuple(sample for sample in self._samples if status.now_s - sample.at_s < REMEMBERED_S),
        )

    def _forget(self) -> None:
        self._samples.clear()
        self._gateway: Gateway | None = None
        self._due_s = {"/gw": 0.0, "/publickey": 0.0}
        self._node_problems: dict[str, str] = {}

    async def _poll_other_nodes(self) -> None:
        """Send at most one more request, to a meter that has just answered."""
        asked_s = now_s()
        node = next((node for node, due_s in self._due_s.items() if asked_s >= due_s), None)
        if node is None or self._tracker.is_silent:
            return
        self._due_s[node] = asked_s + RETRY_INTERVAL_S
        try:
            if node == "/gw":
                self._gateway = await self._client.gw()
                self._due_s[node] = asked_s + GATEWAY_INTERVAL_S
            else:
                key_of(await self._client.publickey())
                del self._due_s[node]  # a readable key stays so
        except MeterError as error:
            self._node_problems[node] = error.brief
        except ReceiptError as error:
            self._node_problems[node] = f"GET {node}: {printable(error)}"
        else:
            self._node_problems.pop(node, None)


async def watch(
    meters: Sequence[WatchedMeter], on_poll: Callable[[WatchedMeter], None], *, count: int | None = None
) -> None:
    """Watch meters until cancelled, or until each was polled ``count`` times.

    No meter waits for another. Their polls are spread over the second.
    """
    async with asyncio.TaskGroup() as tasks:
        for index, meter in enumerate(meters):
            phase = index / len(meters) if len(meters) > 1 else None
            tasks.create_task(meter.run(on_poll, phase=phase, count=count))
