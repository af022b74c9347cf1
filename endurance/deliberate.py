"""Faults that are put into the driver on purpose, one at a time: each breaks a promise, and the runs have to show it.

Each is one that somebody could make. A fault lives as long as the context that `Deliberate.applied` returns.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from endurance import deliberate_station
from endurance.plan import Plan, Step, make
from endurance.replacing import decides, instead
from iem_dcr.device.client import MeterClient
from iem_dcr.driver import decisions, keeping, memory, receipts, whose
from iem_dcr.driver import driver as driver_module
from iem_dcr.driver.decisions import TABLE, Do, Event, State
from iem_dcr.driver.driver import MeterDriver
from iem_dcr.driver.keeping import Keeping
from iem_dcr.driver.memory import Memory
from iem_dcr.driver.meter import Meter
from iem_dcr.driver.setup import Setup
from iem_dcr.driver.starting import Starting
from iem_dcr.driver.whose import Claim, Judgement
from iem_dcr.errors import MeterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

SESSIONS_OF_A_RUN: Final = 4
NOT_BEGUN: Final = (State.NOT_BEGUN, Do.SAY_NOT_BEGUN)


@dataclass(frozen=True, slots=True)
class Deliberate:
    """A fault put in on purpose.

    Attributes:
        name: of the fault.
        breaks: what it does, and what comes of it.
        within: so many sessions are enough to show it, the one that ends each run counted.
        applied: has it in the driver while the context is entered.
        helped_by: what happens in every other session beside what the seed says, for a fault that shows seldom.
    """

    name: str
    breaks: str
    within: int
    applied: Callable[[], AbstractContextManager[None]]
    helped_by: tuple[Step, ...] = ()

    def run_of(self, seed: int) -> Plan:
        """Return a short run in which it may show: one ends in a calm, which tells most."""
        plan = make(seed, SESSIONS_OF_A_RUN)
        sessions = tuple(
            replace(session, steps=tuple(sorted([*self.helped_by, *session.steps], key=lambda step: step.at_s)))
            if session.number % 2
            else session
            for session in plan.sessions
        )
        return replace(plan, sessions=sessions)


# --- beginning ---


@contextmanager
def _begins_blindly() -> Iterator[None]:
    begin = MeterClient.begin

    async def twice(self: MeterClient, *, timeout_s: float | None = None) -> None:
        try:
            await begin(self, timeout_s=timeout_s)
        except MeterError as error:
            if not error.may_have_acted:
                raise
            await begin(self, timeout_s=timeout_s)

    believed = {(State.BEGINNING, Event.REFUSED): NOT_BEGUN, (State.BEGINNING, Event.REFUSED_LAST): NOT_BEGUN}
    with instead(MeterClient, begin=twice), decides(believed):
        yield


def _doubt_is_forgotten() -> AbstractContextManager[None]:
    return decides(
        {
            (state, event): NOT_BEGUN
            for state, steps in TABLE.items()
            for event, (then, _) in steps.items()
            if then is State.DOUBTFUL
        }
        | {(State.BEGINNING, Event.LOST): NOT_BEGUN}
    )


def _other_goes_on() -> AbstractContextManager[None]:
    async def refuses(_self: Starting, start: Any) -> Event:
        start.why = "a transaction still runs"
        return Event.NOT_DONE

    return instead(Starting, _end_other=refuses)


def _user_not_assigned() -> AbstractContextManager[None]:
    async def accepted(_self: Starting, _start: Any) -> Event:
        return Event.ACCEPTED

    return instead(Starting, _assign=accepted)


def _user_of_before() -> AbstractContextManager[None]:
    user = Starting._user
    first: dict[int, Any] = {}

    def of_before(self: Starting, request: Any) -> Any:
        return first.setdefault(id(self), user(self, request))

    return instead(Starting, _user=of_before)


def _foreign_connector() -> AbstractContextManager[None]:
    start = Starting.start

    async def any_connector(self: Starting, request: Any, deadline: Any) -> Any:
        return await start(self, replace(request, evse_id=""), deadline)

    return instead(Starting, start=any_connector)


def _never_set_up_again() -> AbstractContextManager[None]:
    initialise, look = Setup.initialise, decisions.look_to_begin

    async def once(self: Setup, deadline: Any) -> Any:
        was_due = self.gw_due
        last = await initialise(self, deadline)
        if not self._first and self._clock_set_s is not None:
            self.gw_due = was_due
        return last

    def always_configured(**seen: Any) -> Event:
        event: Event = look(**seen | {"configured": True})
        return event

    stack = ExitStack()
    stack.enter_context(instead(Setup, initialise=once))
    stack.enter_context(instead(decisions, look_to_begin=always_configured))
    return stack  # type: ignore[return-value]  # it is entered for nothing


def _clock_never_set() -> AbstractContextManager[None]:
    set_gw = MeterClient.set_gw

    async def at_the_epoch(self: MeterClient, CT: str, CI: str, TM: str, *, timeout_s: float | None = None) -> None:
        await set_gw(self, CT, CI, "2000-01-01T00:00:00,000+0100" if TM else TM, timeout_s=timeout_s)

    async def nothing(_self: MeterClient, _TM: str, *, timeout_s: float | None = None) -> None:  # noqa: ARG001
        return None

    return instead(MeterClient, set_gw=at_the_epoch, set_datetime=nothing)


# --- ending and stopping ---


def _end_not_made_sure_of() -> AbstractContextManager[None]:
    return decides({(State.ENDING, Event.LOST): (State.ENDED, Do.FETCH)})


def _stop_ignores_the_id() -> AbstractContextManager[None]:
    claim = whose.claim

    def whatever_runs(_transaction_id: str, **known: Any) -> Claim:
        found: Claim = claim("", **known)
        return found

    return instead(whose, claim=whatever_runs)


def _any_tuple_will_do() -> AbstractContextManager[None]:
    def ours(*_: Any, **__: Any) -> tuple[Judgement, tuple[str, ...]]:
        return Judgement.OURS, ()

    return instead(memory, judge=ours)


def _kept_under_the_wrong_id() -> AbstractContextManager[None]:
    remember = Memory.remember
    before: dict[int, str] = {}

    def one_late(self: Memory, transaction_id: str, value: Any) -> None:
        remember(self, before.get(id(self), transaction_id), value)
        before[id(self)] = transaction_id

    def the_latest(self: Memory, transaction_id: str) -> Any:
        return self.kept.get(transaction_id) or next(reversed(self.kept.values()), None)

    stack = ExitStack()
    stack.enter_context(instead(Memory, remember=one_late, again=the_latest))
    return stack  # type: ignore[return-value]  # as above


def _ends_the_wanted() -> AbstractContextManager[None]:
    start = Starting.start

    async def and_ends(self: Starting, *of: Any) -> Any:
        answer = await start(self, *of)
        self._ending.watch = True
        return answer

    return instead(Starting, start=and_ends)


def _no_means_no() -> AbstractContextManager[None]:
    stop = MeterDriver.stop_transaction
    refused: dict[tuple[int, str], Any] = {}

    async def once(self: MeterDriver, transaction_id: str) -> Any:
        of = id(self), transaction_id
        if of not in refused:
            answer = await stop(self, transaction_id)
            if not answer.error:
                return answer
            refused[of] = answer
        return refused[of]

    return instead(MeterDriver, stop_transaction=once)


def _never_ends_the_unwanted() -> AbstractContextManager[None]:
    async def leaves_it(_self: MeterDriver) -> None:
        return None

    return instead(MeterDriver, _end_unwanted=leaves_it)


def _takes_its_time() -> AbstractContextManager[None]:
    return instead(driver_module, START_S=600.0, STOP_S=600.0)


def _writes_the_tuple_anew() -> AbstractContextManager[None]:
    signed_value = keeping.signed_value

    def tidied(receipt: Any, public_key: str) -> Any:
        value = signed_value(receipt, public_key)
        return replace(value, signed_meter_data=value.signed_meter_data.replace('","', '", "'))

    stack = ExitStack()
    stack.enter_context(instead(keeping, signed_value=tidied))
    stack.enter_context(instead(receipts, signed_value=tidied))
    return stack  # type: ignore[return-value]  # as above


# --- the journal ---


def _journal_after_the_reply() -> AbstractContextManager[None]:
    keep = Keeping.keep

    async def later(self: Keeping, *of: Any) -> None:
        async def at_last() -> None:
            await asyncio.sleep(4.0)
            await keep(self, *of)

        self._start(at_last())

    return instead(Keeping, keep=later)


def _journal_not_asked() -> AbstractContextManager[None]:
    async def knows_nothing(_self: Keeping, *_: Any) -> Any:
        return None

    changes = {name: knows_nothing for name in ("filed", "is_of_another") if hasattr(Keeping, name)}
    return instead(Keeping, **changes)


# --- what is published ---


def _energy_of_before() -> AbstractContextManager[None]:
    publish = Meter.publish
    before: dict[int, Any] = {}

    def of_before(self: Meter, value: Any) -> None:
        last = before.get(id(self))
        before[id(self)] = value
        if last is not None and last.MS != value.MS:
            value = replace(value, import_wh=last.import_wh, export_wh=last.export_wh)
        publish(self, value)

    return instead(Meter, publish=of_before)


def _publishing_fails() -> AbstractContextManager[None]:
    publish = Meter.publish

    def fails_at_odd_values(self: Meter, value: Any) -> None:
        publish(self, value)
        if int(value.import_wh) % 2:
            raise KeyError("odd")

    return instead(Meter, publish=fails_at_odd_values)


def _tasks_stay() -> AbstractContextManager[None]:
    keep = Keeping.keep

    async def and_waits(self: Keeping, *of: Any) -> None:
        await keep(self, *of)
        self._leaked = [*getattr(self, "_leaked", ()), asyncio.create_task(asyncio.sleep(1e6))]  # type: ignore[attr-defined]

    return instead(Keeping, keep=and_waits)


_LOST_ANSWER: Final[dict[str, Any]] = {"kind": "lose-answer", "method": "POST", "node": "/receipt"}
_LOST_REQUEST: Final[dict[str, Any]] = {"kind": "lose-request", "method": "POST", "node": "/receipt"}
_AT_B: Final[dict[str, Any]] = {"method": "POST", "node": "/receipt", "delay_s": 0.0}

B_IS_IN_DOUBT: Final = (Step(0.0, "wire_fault", _LOST_ANSWER),)
"""The meter acts on B, and its answer is lost."""
B_STAYS_IN_DOUBT: Final = (Step(0.0, "set_trap", _AT_B | {"what": "network_swallows", "then": {"for_s": 40.0}}),)
"""The meter acts on B, and cannot be asked for longer than a start may take."""
E_IS_LOST: Final = (Step(0.0, "set_trap", _AT_B | {"what": "wire_fault", "then": _LOST_REQUEST}),)
"""The first E does not reach the meter, and the connection breaks."""

LOST_BEHIND_ITS_BACK: Final = (
    Step(1.0, "kill", {"away_s": 0.2}),
    Step(2.0, "cut_power", {"off_s": 0.2, "boot_s": 0.5, "open_at_power_cut": "lost"}),
)
"""The process that began a transaction is gone, and so is the transaction: what the meter has is another's receipt."""

AWAY_AT_THE_STOP: Final = (Step(1.5, "set_trap", _AT_B | {"what": "network_swallows", "then": {"for_s": 80.0}}),)
"""The meter acts on E, and is out of reach for longer than a stop may take; then it is there again."""

ENDED_IN_A_COMMAND: Final = (
    Step(0.0, "network_swallows", {"for_s": 10.0}),
    Step(2.0, "restart", {"away_s": 0.2}),
)
"""The process is ended while a start waits for the meter."""
KILLED_IN_A_FAULT: Final = (
    Step(0.0, "network_swallows", {"for_s": 40.0}),
    Step(20.0, "kill", {"away_s": 0.2}),
)
"""The process is killed while the station is told that the meter does not answer, and it still does not."""

FAULTS: Final = (
    Deliberate(
        "blind retry of B", "a lost B is sent again, and its refusal believed", 150, _begins_blindly, B_IS_IN_DOUBT
    ),
    Deliberate(
        "doubt forgotten", "a B whose answer was lost counts as not begun", 25, _doubt_is_forgotten, B_IS_IN_DOUBT
    ),
    Deliberate("the other goes on", "a start does not end what still runs, and is refused", 150, _other_goes_on),
    Deliberate("no user", "no user is assigned before B", 10, _user_not_assigned),
    Deliberate("the user of before", "every transaction is signed for the first user", 10, _user_of_before),
    Deliberate("any connector", "a start for another connector is accepted", 150, _foreign_connector),
    Deliberate("set up once", "a meter is not set up again after a power cut", 25, _never_set_up_again),
    Deliberate("clock never set", "the meter's clock is set to the year 2000", 10, _clock_never_set),
    Deliberate("E not made sure of", "a lost E counts as accepted", 25, _end_not_made_sure_of, E_IS_LOST),
    Deliberate("any id", "a stop ends whatever runs", 50, _stop_ignores_the_id),
    Deliberate("stale receipt", "any tuple is taken for the one that is waited for", 25, _any_tuple_will_do),
    Deliberate("wrong key", "receipts are remembered under the id before", 10, _kept_under_the_wrong_id),
    Deliberate(
        "unwanted goes on",
        "what the station does not know of is not ended",
        150,
        _never_ends_the_unwanted,
        B_STAYS_IN_DOUBT,
    ),
    Deliberate("wanted ended", "what was begun is ended soon after, as if nobody wanted it", 10, _ends_the_wanted),
    Deliberate("no means no", "a stop that failed once fails for ever", 75, _no_means_no, AWAY_AT_THE_STOP),
    Deliberate("deadline ignored", "a command may take ten minutes", 75, _takes_its_time),
    Deliberate("tidied", "the tuple is not handed over as the meter wrote it", 10, _writes_the_tuple_anew),
    Deliberate("journal late", "a receipt is written to the journal after the reply", 10, _journal_after_the_reply),
    Deliberate("journal not asked", "after a restart it is not asked", 150, _journal_not_asked, LOST_BEHIND_ITS_BACK),
    Deliberate(
        "energy of before",
        "after an exchange the old meter's energy is published",
        75,
        _energy_of_before,
    ),
    Deliberate(
        "check is false",
        "a communication check of a meter that is away is false",
        25,
        deliberate_station.check_is_false,
    ),
    Deliberate("no reply on failure", "what failed is not answered", 150, deliberate_station.no_reply_on_failure),
    Deliberate(
        "left waiting",
        "what waits when the module is ended is not answered",
        75,
        deliberate_station.left_waiting,
        ENDED_IN_A_COMMAND,
    ),
    Deliberate(
        "handler raises", "a start that is refused raises in its handler", 50, deliberate_station.handler_raises
    ),
    Deliberate("error stays", "an error of the interface is never cleared", 50, deliberate_station.error_stays),
    Deliberate(
        "errors of before",
        "a new process raises an error that is active already",
        75,
        deliberate_station.errors_of_before,
        KILLED_IN_A_FAULT,
    ),
    Deliberate("publishing fails", "publishing raises, and is caught where nobody looks", 25, _publishing_fails),
    Deliberate("tasks stay", "every receipt leaves a task behind", 10, _tasks_stay),
)
