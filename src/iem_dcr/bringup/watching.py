"""Watching meters beside whoever drives them: a live value a second each, and nothing that could be in the way.

Only GET /metervalue, /gw and /publickey go out, which a meter may be asked at any time, also in a transaction: a value
every second, the charge point once a minute and after anything that may have been a power cut, the key once. A meter
that hangs is asked again when its time is up; each has a task of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from iem_dcr import ocmf
from iem_dcr.bringup.seen import TransactionWatch
from iem_dcr.bringup.sight import Sample, Sight
from iem_dcr.device.client import MeterClient
from iem_dcr.driver.timing import Schedule, now_s
from iem_dcr.errors import MeterError, ReceiptError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iem_dcr.device.messages import Gateway, MeterValue

EVERY_S: Final = 1.0
TIMEOUT_S: Final = 1.9
"""Of each question: a meter that hangs is asked every two seconds. Its driver gives it no more time either."""
GATEWAY_EVERY_S: Final = 60.0
ASKED_AGAIN_AFTER_S: Final = 10.0
"""What /gw or /publickey gave no answer to is asked again so much later."""
REMEMBERED_S: Final = 300.0
CLOCK_JUMP: Final = timedelta(seconds=5)
"""A clock that jumps further than this between two values may have been through a power cut."""


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
        self._client = MeterClient(host, port, timeout_s=TIMEOUT_S)
        self._wall = wall
        self.address = self._client.address
        self._value: MeterValue | None = None
        self._read_at: datetime | None = None
        self._read_s = self._moved_s = 0.0
        self._clock_off: timedelta | None = None
        self._problem = ""
        self._silent: tuple[datetime, float] | None = None
        self._samples: deque[Sample] = deque(maxlen=round(REMEMBERED_S / EVERY_S))
        self._transaction = TransactionWatch()
        self._gateway: Gateway | None = None
        self._has_key = False
        self._due_s = {"/gw": 0.0, "/publickey": 0.0}
        self._other_problems: dict[str, str] = {}

    @property
    def answered(self) -> bool:
        """Whether it has ever given a live value."""
        return self._value is not None

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
        try:
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
        finally:
            await self._client.close()

    async def look(self) -> None:
        """Ask for a live value once, and take up what it shows. Never raises for the meter's sake."""
        asked = self._wall()
        asked_s = now_s()
        try:
            value = await self._client.metervalue()
        except MeterError as error:
            self._problem = error.brief
            if self._silent is None:
                self._silent = asked, asked_s
            return
        answered = self._wall()
        self._take_up(value, asked + (answered - asked) / 2)

    def sight(self) -> Sight:
        """Return what there is to see now; to be called on the loop."""
        value, now = self._value, now_s()
        silent_since, silent_s = self._silent or (None, now)
        return Sight(
            address=self.address,
            now_s=now,
            value=value,
            read_at=self._read_at,
            age_s=None if value is None else now - self._read_s,
            stands_s=self._read_s - self._moved_s,
            clock_off=self._clock_off,
            problem=self._problem,
            silent_since=silent_since,
            silent_s=None if silent_since is None else now - silent_s,
            gateway=self._gateway,
            other_problems=tuple(self._other_problems.items()),
            transaction=None if value is None else self._transaction.seen(value),
            samples=tuple(sample for sample in self._samples if now - sample.at_s < REMEMBERED_S),
        )

    def _take_up(self, value: MeterValue, read_at: datetime) -> None:
        before, off_before = self._value, self._clock_off
        if before is not None and before.MS != value.MS:
            self._is_another()
            before = off_before = None
        self._clock_off = value.TM.instant - read_at
        jumped = off_before is not None and abs(self._clock_off - off_before) > CLOCK_JUMP
        was_silent = self._silent is not None
        if was_silent or jumped:
            self._due_s["/gw"] = now_s()
        self._transaction.take_up(before, value, read_at, may_have_missed=was_silent or jumped)
        self._value, self._read_at, self._read_s = value, read_at, now_s()
        if before is None or before.TM.instant != value.TM.instant:
            self._moved_s = self._read_s
        self._problem, self._silent = "", None
        self._samples.append(Sample(self._read_s, float(value.P), float(value.U2), float(value.I)))

    def _is_another(self) -> None:
        """Forget what was known: another meter answers at this address."""
        self._samples.clear()
        self._transaction.forget()
        self._gateway = None
        self._has_key = False
        self._due_s = dict.fromkeys(self._due_s, now_s())
        self._other_problems.clear()

    async def _ask_what_is_due(self) -> None:
        """Ask at most one more question, of a meter that has just answered."""
        if self._silent is not None:
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
