"""Watching meters beside whoever drives them: a live value a second each, and nothing that could be in the way.

Only GET /metervalue, /gw and /publickey go out, which a meter may be asked at any time, also in a transaction: a value
every second, the charge point once a minute and after anything that may have been a power cut, the key once. A meter
that hangs is asked again when its time is up; each has a task of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from iem_dcr import ocmf
from iem_dcr.bringup.seen import SeenMeter
from iem_dcr.bringup.sight import Sample, number
from iem_dcr.device.client import MeterClient
from iem_dcr.driver.timing import Schedule, now_s
from iem_dcr.errors import MeterError, ReceiptError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iem_dcr.bringup.sight import Sight
    from iem_dcr.device.messages import Gateway, MeterValue

EVERY_S: Final = 1.0
PAUSE_S: Final = 1.0
"""Requests are so far apart: a meter that serves one connection at a time has time for who drives it."""
TIMEOUT_S: Final = 1.9
"""Of each question: a meter that hangs is asked every two seconds. Its driver gives it no more time either."""
GATEWAY_EVERY_S: Final = 60.0
ASKED_AGAIN_AFTER_S: Final = 10.0
"""What /gw or /publickey gave no answer to is asked again so much later."""
REMEMBERED_S: Final = 300.0


class WatchedMeter:
    """One meter that is watched.

    Args:
        host: of the meter; IPv6 without brackets.
        port: TCP port.
        wall: the host's clock, aware; it gives the zone that times are shown in.

    Attributes:
        address: ``host:port``.
        answered: it has ever given a live value.
    """

    def __init__(self, host: str, port: int, wall: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._client = MeterClient(host, port, timeout_s=TIMEOUT_S, pause_s=PAUSE_S)
        self._wall = wall
        self.address = self._client.address
        self._seen = SeenMeter()
        self._samples: deque[Sample] = deque(maxlen=round(REMEMBERED_S / EVERY_S))
        self._gateway: Gateway | None = None
        self._has_key = False
        self._due_s = {"/gw": 0.0, "/publickey": 0.0}
        self._other_problems: dict[str, str] = {}

    @property
    def answered(self) -> bool:
        """Whether it has ever given a live value."""
        return self._seen.value is not None

    async def run(
        self, looked: Callable[[WatchedMeter], None], *, phase: float | None = None, count: int | None = None
    ) -> None:
        """Look at it every second until cancelled, or so many times.

        Args:
            looked: called after each look.
            phase: where in the second it is asked from its second look on, 0.0 to below 1.0.
            count: how many looks.
        """
        schedule = Schedule(EVERY_S, phase)
        while count is None or count > 0:
            await self.look()
            looked(self)
            await self._ask_what_is_due()
            if count is not None:
                count -= 1
                if not count:
                    return
            schedule.advance()
            await asyncio.sleep(max(0.0, schedule.next_s - now_s()))

    async def look(self) -> None:
        """Ask for a live value once, and take up what it shows. Never raises for the meter's sake."""
        await self._client.pause()
        asked = self._wall()
        asked_s = now_s()
        try:
            value = await self._client.metervalue()
        except MeterError as error:
            self._seen.failed(error.brief, asked, asked_s)
            return
        answered = self._wall()
        self._take_up(value, asked + (answered - asked) / 2)

    def sight(self) -> Sight:
        """Return what there is to see now; to be called on the loop."""
        sight = self._seen.sight(self.address)
        return replace(
            sight,
            gateway=self._gateway,
            other_problems=tuple(self._other_problems.items()),
            samples=tuple(sample for sample in self._samples if sight.now_s - sample.at_s < REMEMBERED_S),
        )

    def _take_up(self, value: MeterValue, read_at: datetime) -> None:
        news = self._seen.take_up(value, read_at)
        if news.is_another:
            self._is_another()
        if news.may_have_missed:
            self._due_s["/gw"] = now_s()
        self._samples.append(Sample(self._seen.read_s, number(value.P), number(value.U2), number(value.I)))

    def _is_another(self) -> None:
        """Forget what was known: another meter answers at this address."""
        self._samples.clear()
        self._gateway = None
        self._has_key = False
        self._due_s = dict.fromkeys(self._due_s, now_s())
        self._other_problems.clear()

    async def _ask_what_is_due(self) -> None:
        """Ask at most one more question, of a meter that has just answered."""
        if self._seen.is_silent:
            return
        if now_s() >= self._due_s["/gw"]:
            self._due_s["/gw"] = now_s() + await self._ask_gateway()
        elif not self._has_key and now_s() >= self._due_s["/publickey"]:
            self._due_s["/publickey"] = now_s() + await self._ask_key()

    async def _ask_gateway(self) -> float:
        """Ask for the charge point. Returns after how many seconds it is due again."""
        try:
            self._gateway = await self._client.gw()
        except MeterError as error:
            self._other_problems["/gw"] = error.brief
            return ASKED_AGAIN_AFTER_S
        self._other_problems.pop("/gw", None)
        return GATEWAY_EVERY_S

    async def _ask_key(self) -> float:
        """Ask whether there is a key that can be read. Returns after how many seconds it is due again."""
        try:
            ocmf.public_key_der_hex((await self._client.publickey()).PK)
        except MeterError as error:
            self._other_problems["/publickey"] = error.brief
        except ReceiptError as error:
            self._other_problems["/publickey"] = f"GET /publickey: {printable(error)}"
        else:
            self._has_key = True
            self._other_problems.pop("/publickey", None)
        return ASKED_AGAIN_AFTER_S


async def watch(
    meters: Sequence[WatchedMeter], looked: Callable[[WatchedMeter], None], *, count: int | None = None
) -> None:
    """Watch meters until cancelled, or until each was looked at so many times; none waits for another.

    They are asked in turn within the second, so that many do not all come due together.
    """
    async with asyncio.TaskGroup() as tasks:
        for number, meter in enumerate(meters):
            phase = number / len(meters) if len(meters) > 1 else None
            tasks.create_task(meter.run(looked, phase=phase, count=count))
