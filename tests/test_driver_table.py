"""Every state and event of the decision table, reached by the driver itself: a meter does what leads there."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr import ocmf
from iem_dcr.config import Settings
from iem_dcr.device.messages import Gateway, MeterValue, PublicKey, User
from iem_dcr.driver import MeterDriver, driver
from iem_dcr.driver.decisions import TABLE, Conversation, Do, Event, State
from iem_dcr.driver.driver import ANSWER_MARGIN_S, START_S, STOP_S
from iem_dcr.errors import AnswerLostError, MeterError, MeterTimeoutError, MeterUnreachableError, RefusedError
from iem_dcr.meter_time import MeterTime, MeterZone
from iem_dcr.powermeter import TransactionRequestStatus
from tests.support.bench import CI, RememberingStation, request
from tests.support.virtual_time import VirtualWall, virtual

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iem_dcr.ocmf import Receipt

OK = TransactionRequestStatus.OK
BAD = "0x0000, 0x00000010, 0x00, 0x00"
HEALTHY = "0x0000, 0x00000000, 0x00, 0x00"
ADDRESS = "192.0.2.1:80"
LOOKS_AT_END = (State.END_UNSURE, State.END_LAST_LOOK)
LOOKS = (State.LOOKING, State.BEGIN_REFUSED, State.DOUBT, State.DOUBT_TWICE, State.DOUBT_LAST, *LOOKS_AT_END)
PAIRS = [(state, event) for state, events in TABLE.items() for event in events]
Path = tuple[tuple[State, Event], ...]


def way_to(state: State, start: State) -> Path | None:
    """Return the shortest walk from a state to another: no refusal but the last one, and without giving up."""
    ways: deque[tuple[State, Path]] = deque([(start, ())])
    seen = {start}
    while ways:
        at, way = ways.popleft()
        if at is state:
            return way
        for event, (then, _) in TABLE[at].items():
            if then not in seen and event not in (Event.REFUSED, Event.GIVE_UP):
                seen.add(then)
                ways.append((then, (*way, (at, event))))
    return None


class ScriptedMeter:
    """Stands for client and meter: keeps the state of a meter, and does what leads along a walk through the table.

    Attributes:
        wanted: what is to happen in which state, until the last of it has happened.
        ends_s: when the work of the command ends, on the loop's clock.
    """

    address = ADDRESS
    last_response_s = None

    def __init__(self, wall: VirtualWall) -> None:
        self.wanted: Path = ()
        self.ends_s = 0.0
        self.conversation: Conversation | None = None
        self._wall = wall
        self._set = self._running = False
        self._XC = HEALTHY
        self._user: User | None = None
        self._number = 0
        self._began = ""
        self._last: str | None = None

    # --- along the walk ---

    def _want(self) -> Event | None:
        state = self.conversation.state if self.conversation is not None else None
        return next((event for at, event in self.wanted if at is state), None)

    async def _linger(self) -> None:
        """Answer in the last moment where time is to run out right after it."""
        if self._is_before_giving_up():
            await asyncio.sleep(max(0.0, self.ends_s - asyncio.get_running_loop().time()))

    def _is_before_giving_up(self) -> bool:
        if not self.wanted or self.wanted[-1][1] is not Event.GIVE_UP:
            return False
        if len(self.wanted) == 1:
            return self.wanted[0][0] is State.ENDING and self.conversation is None
        return self.conversation is not None and self.wanted[-2][0] is self.conversation.state

    def _look(self) -> None:
        want = self._want()
        state = self.conversation.state if self.conversation is not None else None
        if want is None or state not in LOOKS:
            return
        if want in (Event.UNREADABLE, Event.GIVE_UP):
            raise MeterTimeoutError(ADDRESS, "GET /gw", "no answer")
        ended = self._running and want is Event.IDLE and state in LOOKS_AT_END
        self._running = want in (Event.RUNNING, Event.RUNNING_BARE)
        self._set = want not in (Event.BARE, Event.RUNNING_BARE)
        self._XC = BAD if want is Event.UNFIT else HEALTHY
        if ended:
            self._sign()

    def _send(self, node: str) -> None:
        errors: dict[Event | None, MeterError] = {
            Event.REFUSED: RefusedError(ADDRESS, node, 428),
            Event.REFUSED_LAST: RefusedError(ADDRESS, node, 428),
            Event.NOT_DONE: RefusedError(ADDRESS, node, 428),
            Event.UNSENT: MeterUnreachableError(ADDRESS, node, "no route"),
            Event.LOST: AnswerLostError(ADDRESS, node, "the answer was lost"),
        }
        error = errors.get(self._want())
        if error is not None:
            raise error

    # --- the nodes ---

    async def gw(self, **_: Any) -> Gateway:
        await self._linger()
        self._look()
        return Gateway("EVSEID" if self._set else "", CI if self._set else "", None)

    async def metervalue(self, **_: Any) -> MeterValue:
        if self.conversation is None or self.conversation.state in LOOKS_AT_END:
            await self._linger()
            self._look()
        now = MeterTime(self._wall(), "I")
        zero = Decimal(0)
        return MeterValue("M1", now, "", "G", self._running, "0x0", self._XC, zero, zero, zero, zero, zero)

    async def set_gw(self, *_: Any, **__: Any) -> None:
        self._send("POST /gw")
        self._set = True

    async def set_user(self, user: User, **_: Any) -> None:
        await self._linger()
        self._send("POST /user")
        self._user = user

    async def begin(self, **_: Any) -> None:
        await self._linger()
        self._send("POST /receipt")
        self._running = True
        self._began = self._time()

    async def end(self, **_: Any) -> None:
        await self._linger()
        self._send("POST /receipt")
        if self._running:
            self._running = False
            self._sign()

    async def receipt(self, **_: Any) -> Receipt | None:
        return None if self._last is None else ocmf.parse(self._last)

    transaction = receipt

    async def publickey(self, **_: Any) -> PublicKey:
        return PublicKey("ECDSA-secp256r1-SHA256", "")

    async def set_tariff(self, *_: Any, **__: Any) -> None:
        """Take it."""

    set_datetime = set_tariff

    async def close(self) -> None:
        """There is nothing to close."""

    def _time(self) -> str:
        return MeterZone.named("+0100", handle_dst=True).write(self._wall()) + " I"

    def _sign(self) -> None:
        self._number += 1
        ID = self._user.ID if self._user else ""
        reading = {"ST": "G", "RV": "0", "RI": "1-b:1.8.e", "RU": "kWh"}
        readings = [reading | {"TM": self._began or self._time(), "TX": "B"}, reading | {"TM": self._time(), "TX": "E"}]
        payload = {"FV": "1.0", "MS": "M1", "ID": ID, "PG": f"T{self._number}", "RD": readings}
        self._last = f'OCMF|{json.dumps(payload)}|{{"SD":"00"}}'


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Conversation, State, Event, Do]]]:
    """Yield what every conversation goes through."""
    steps: list[tuple[Conversation, State, Event, Do]] = []
    process = Conversation.process

    def noted(conversation: Conversation, event: Event) -> Do:
        state = conversation.state
        do = process(conversation, event)
        steps.append((conversation, state, event, do))
        return do

    monkeypatch.setattr(Conversation, "process", noted)
    yield steps
    assert steps


async def walk(meter: ScriptedMeter, pair: tuple[State, Event], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, State]:
    """Have a driver walk to a state, and have the event happen there; return its answer and where the walk ended."""
    begins = way_to(pair[0], State.LOOKING)
    start = State.LOOKING if begins is not None else State.ENDING
    way = begins if begins is not None else way_to(pair[0], State.ENDING)
    assert way is not None
    wanted = (*way, pair)

    def begun(conversation: Conversation, state: State) -> None:
        conversation.state = state
        if meter.wanted and meter.conversation is None and state is start:
            meter.conversation = conversation

    monkeypatch.setattr(Conversation, "__init__", begun)
    monkeypatch.setattr(driver, "MeterClient", lambda *_, **__: meter)
    settings = Settings.of({"CI": CI, "verify_receipts": False, "stop_current_wait_ms": 0})
    retries = 3 if pair[1] is Event.REFUSED else 0
    settings = replace(settings, resilience_transaction_request_retries=retries)
    meter_driver = MeterDriver(settings, RememberingStation(), wall=meter._wall)
    task = asyncio.create_task(meter_driver.run())
    try:
        await asyncio.sleep(1.5)
        if start is State.ENDING:
            assert (await meter_driver.start_transaction(request("T-1"))).status is OK
            await asyncio.sleep(1.5)
        limit_s = START_S if start is State.LOOKING else STOP_S
        begun_s = asyncio.get_running_loop().time()
        meter.ends_s = begun_s + limit_s - ANSWER_MARGIN_S
        meter.wanted = wanted
        command = (
            meter_driver.start_transaction(request("T-1"))
            if start is State.LOOKING
            else meter_driver.stop_transaction("T-1")
        )
        answer = await command
        assert asyncio.get_running_loop().time() - begun_s <= limit_s
        assert meter.conversation is not None
        return answer, meter.conversation.state
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].name}-{pair[1].name}")
@virtual
async def test_reached(
    pair: tuple[State, Event],
    walked: list[tuple[Conversation, State, Event, Do]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter = ScriptedMeter(VirtualWall())
    process = Conversation.process

    def until_there(conversation: Conversation, event: Event) -> Do:
        is_there = conversation is meter.conversation and (conversation.state, event) == pair
        do = process(conversation, event)
        if is_there:
            meter.wanted = ()  # what comes then is as it may
        return do

    monkeypatch.setattr(Conversation, "process", until_there)
    answer, state = await walk(meter, pair, monkeypatch)
    assert pair in [(at, event) for conversation, at, event, _ in walked if conversation is meter.conversation]
    assert (answer.status is OK) is (state in (State.BEGUN, State.ENDED))
    assert (answer.error == "") is (answer.status is OK)


def test_every_pair_has_a_walk() -> None:
    assert len(PAIRS) == len(set(PAIRS)) > 70
    for state, _ in PAIRS:
        assert way_to(state, State.LOOKING) is not None or way_to(state, State.ENDING) is not None
