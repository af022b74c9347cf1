"""Deliberate faults in the program, one at a time. Each breaks a promise, and the runs must detect it.

Each fault is a plausible programming error. It loses a receipt, swaps it with another, or prevents charging. A fault
has a sentence that says what it breaks, the places that it replaces, and the session that shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import AsyncMock, Mock, patch

from endurance.knobs import KNOWN
from endurance.plan import Plan, SessionPlan, Step, make, start, step, stop, trap
from endurance.process import ModuleProcess
from iem_dcr.device.client import MeterClient
from iem_dcr.driver import driver, receipt_keeper, receipt_matching
from iem_dcr.driver import stop as driver_stop
from iem_dcr.driver.commands import Command
from iem_dcr.driver.driver import MeterDriver
from iem_dcr.driver.ledger import Ledger
from iem_dcr.driver.meter_state import MeterState
from iem_dcr.driver.provisioning import Provisioning
from iem_dcr.driver.receipt_keeper import ReceiptKeeper
from iem_dcr.driver.receipt_matching import Entitlement, Right
from iem_dcr.driver.receipt_memory import ReceiptMemory
from iem_dcr.driver.start import Start
from iem_dcr.driver.transitions import AWAITED, State
from iem_dcr.driver.upkeep import Upkeep
from iem_dcr.errors import MeterError
from iem_dcr.everest.module import EverestModule
from iem_dcr.everest_api.requests import Requests
from iem_dcr.everest_api.status_publisher import StatusPublisher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

AFTER_LAST_STEP_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Deliberate:
    """A deliberate fault and the session that shows it.

    Attributes:
        steps: the session that shows it. Every run ends with one more session without faults.
        instead: returns the replacement for an original attribute.
        places: the replaced attributes, as object and name.
        seeds: seeds of the runs. One run that breaks a promise is enough.
    """

    name: str
    breaks: str
    steps: tuple[Step, ...]
    instead: Callable[[Any], Any]
    places: Sequence[tuple[Any, str]]
    knobs: str = KNOWN
    seeds: range = range(1000, 1005)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Apply the fault inside the context."""
        with contextlib.ExitStack() as stack:
            for owner, name in self.places:
                stack.enter_context(patch.object(owner, name, self.instead(getattr(owner, name))))
            yield

    def run_of(self, seed: int) -> Plan:
        """Return the plan with the meter and process of ``seed`` and the steps of this fault."""
        length_s = self.steps[-1].at_s + AFTER_LAST_STEP_S
        return replace(make(seed, 1, self.knobs), sessions=(SessionPlan(0, length_s, self.steps),))


def fault(
    steps: tuple[Step, ...], *places: tuple[Any, str], knobs: str = KNOWN, seeds: int = 5
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a fault. It replaces the original, which it gets as its first argument."""

    def made(function: Callable[..., Any]) -> Callable[..., Any]:
        def instead(own: Any) -> Callable[..., Any]:
            return lambda *args, **named: function(own, *args, **named)

        name, breaks = function.__name__, function.__doc__ or ""
        FAULTS.append(Deliberate(name, breaks, steps, instead, places, knobs, range(1000, 1000 + seeds)))
        return function

    return made


def _returns(value: Any) -> Callable[[Any], Any]:
    """Return a replacement that only returns ``value``."""
    return lambda own: (AsyncMock if inspect.iscoroutinefunction(own) else Mock)(return_value=value)


# --- the sessions: starts and stops of the transactions T-1 and T-2, and the events between them ---
# The POST /receipt that follows POST /user is B, a later one is E.


def _wire(at_s: float, kind: str, method: str = "POST", node: str = "/receipt", count: int = 1) -> Step:
    return step(at_s, "wire_fault", kind=kind, method=method, node=node, count=count)


def _power_cut(at_s: float) -> Step:
    return step(at_s, "cut_power", off_s=0.2, boot_s=0.5, open_at_power_cut="lost")


def _away(at_s: float, for_s: float) -> Step:
    return step(at_s, "network_swallows", for_s=for_s)


def _kill(at_s: float, away_s: float = 0.2) -> Step:
    return step(at_s, "kill", away_s=away_s)


ONE: Final = start(0, 1), stop(6, 1)
TWO: Final = start(0, 1), start(3, 2), stop(6, 2), stop(8, 1)
"""The second transaction begins while the first runs."""
END_WITHOUT_ANSWER: Final = start(0, 1), _wire(2.9, "lose-answer"), start(3, 2), stop(9, 2)
END_LOST: Final = start(0, 1), _wire(2.9, "lose-request"), start(3, 2), stop(9, 2)
BEGIN_WITHOUT_ANSWER: Final = trap("POST /user", _wire(0, "lose-answer")), start(0, 1), stop(10, 1)
BEGIN_STAYS_IN_DOUBT: Final = trap("POST /user", trap("POST /receipt", _away(0, 40.0))), start(0, 1)
"""The meter acts on B and is then unreachable for longer than the deadline of a start."""
STRANGER_IN_ITS_PLACE: Final = (
    start(0, 1), _power_cut(1), step(1.9, "begin_by_hand"), step(2.3, "end_by_hand"), stop(6, 1),
)  # fmt: skip
"""A power cut loses our transaction, and a foreign one begins before the driver can query the meter."""
SAME_CARD: Final = (
    start(0, 1), _kill(3, 1.0), step(3.3, "end_by_hand"), _wire(3.9, "garbage", "GET", "/transaction", 20),
    _wire(3.9, "garbage", "GET", "/receipt", 20), start(6, 2, identification_data="04AA1"), step(14, "wire_heals"),
    stop(14.5, 2),
)  # fmt: skip
"""The previous receipt has the same card and cannot be read before B."""
LOST_AND_ANOTHER: Final = start(0, 1), _power_cut(1), start(4, 2), stop(8, 1), stop(12, 2)
LOST_BEHIND_ITS_BACK: Final = start(0, 1), _kill(3), _power_cut(5), start(9, 2), stop(13, 1), stop(17, 2)
"""The process that began a transaction was killed, and the meter has lost the transaction. Another one runs."""
STOPPED_AGAIN: Final = start(0, 1), stop(3, 1), _kill(5), start(7, 2), stop(10, 1), stop(13, 2)
"""A stop is repeated to another process than the first time, while another transaction runs."""
REFUSED: Final = start(0, 1), stop(3, 1), start(5, 2, evse_id="DE*OTHER*E9"), stop(8, 2)
CURRENT_FLOWS: Final = start(0, 1), step(1, "current_flows", for_s=40.0), stop(3, 1), stop(70, 1)
AWAY_AT_THE_STOP: Final = start(0, 1), trap("POST /receipt", _away(0, 130.0), set_at_s=2.9), stop(3, 1)
"""The meter acts on E, is then unreachable for longer than the deadline of a stop, and returns."""
AWAY_AT_THE_START: Final = _away(1, 80.0), start(2, 1)
ENDED_IN_A_START: Final = _away(1, 10.0), start(1.5, 1), step(3, "restart", away_s=0.2)
KILLED_IN_A_FAULT: Final = _away(1, 40.0), _kill(20)
"""The process is killed while the error for an unreachable meter is active, and the meter stays unreachable."""
REGISTER_FALLS: Final = (step(3, "register_falls", to_wh=0),)


# --- faults that omit an action ---

FAULTS: Final = [
    Deliberate("id_without_influence", "A stop for any id ends the running transaction and gets its receipt.",
               LOST_AND_ANOTHER, _returns(Entitlement(Right.WHATEVER_RUNS)), [(driver_stop, "entitlement")]),
    Deliberate("refused_start_forgotten", "The stop for a refused start gets the receipt of another transaction.",
               REFUSED, _returns(None), [(Ledger, "refuse")]),
    Deliberate("start_ends_nothing", "B is sent without an E: a second B can destroy the running transaction.",
               TWO, _returns(value=True), [(Start, "_end_what_runs")], "second_begin", range(1000, 1020)),
    Deliberate("receipt_not_awaited", "B follows E immediately, while the meter still signs: the receipt is lost.",
               TWO, _returns(value=True), [(Start, "_wait_for_receipt")], "begin_spoils_signature"),
    Deliberate("any_connector", "A start for another connector than the meter's is accepted.",
               REFUSED, _returns(""), [(Start, "_unfit")]),
    Deliberate("unwanted_goes_on", "The driver does not end a transaction whose start was answered with an error.",
               BEGIN_STAYS_IN_DOUBT, _returns(None), [(Upkeep, "_end_unwanted")]),
    Deliberate("deadline_ignored", "A command may take ten minutes while the meter is unreachable.", AWAY_AT_THE_START,
               lambda _: 600.0, [(driver, "START_S"), (driver, "STOP_S"), (driver, "SILENT_STOP_S")]),
    Deliberate("never_noted", "No entry is written: after a kill, a stop for a lost transaction ends another one.",
               LOST_BEHIND_ITS_BACK, _returns(None), [(ReceiptKeeper, "note"), (ReceiptKeeper, "note_later")]),
    Deliberate("found_not_kept", "A receipt that no stop requests is not stored.",
               TWO[:3], _returns(None), [(ReceiptKeeper, "found")]),
    Deliberate("left_waiting", "Commands that wait at the end of the module are never answered.",
               ENDED_IN_A_START, _returns(None), [(Command, "drop"), (EverestModule, "answer_what_waits")]),
    Deliberate("error_stays", "An error is never cleared.",
               AWAY_AT_THE_START, _returns(None), [(ModuleProcess, "clear_error")]),
    Deliberate("error_raised_twice", "An error that is active since before a restart is raised a second time.",
               KILLED_IN_A_FAULT, _returns(None), [(EverestModule, "_clear_errors_of_before")]),
]  # fmt: skip


# --- faults that do something wrong ---


@fault(STRANGER_IN_ITS_PLACE, (receipt_matching, "is_ours"))
def any_new_receipt_closes(_own: Any, _receipt: Any, entry: Any) -> bool:
    """Any new receipt closes an entry: a stop gets that of a foreign transaction."""
    return entry.state in AWAITED


@fault(SAME_CARD, (receipt_matching, "is_ours"), seeds=40)
def matched_by_id_alone(_own: Any, receipt: Any, entry: Any) -> bool:
    """Any new receipt of the same card closes an entry: a stop gets that of the previous transaction."""
    return entry.state not in (State.CLOSED, State.REFUSED) and receipt.identification in (None, entry.ID)


@fault(TWO, (ReceiptMemory, "own"))
def remembered_under_the_id_before(own: Any, self: Any, receipt: Any, transaction_id: str, *, answers: bool) -> None:
    """A receipt is remembered under the id of the previous one."""
    own(self, receipt, getattr(self, "_id_before", transaction_id), answers=answers)
    self._id_before = transaction_id


@fault(ONE, (receipt_keeper, "signed_value"))
def receipt_is_changed(own: Any, receipt: Any, public_key: str) -> Any:
    """A receipt is changed before delivery: its signature does not match its text."""
    value = own(receipt, public_key)
    return replace(value, signed_meter_data=value.signed_meter_data.replace('","', '", "'))


@fault(BEGIN_STAYS_IN_DOUBT, (Ledger, "on_begin_unanswered"))
def doubtful_begin_forgotten(_own: Any, self: Any, entry: Any, _at_s: float) -> Any:
    """A B without an answer counts as refused: the transaction that it began continues, without payment."""
    self.on_begin_refused(entry)
    return entry


@fault(BEGIN_WITHOUT_ANSWER, (MeterClient, "begin"), knobs="second_begin", seeds=40)
async def begin_repeated_blindly(own: Any, *of: Any, **named: Any) -> None:
    """A B without an answer is repeated immediately: the answer to the second counts for the first."""
    try:
        await own(*of, **named)
    except MeterError as error:
        if not error.may_have_acted:
            raise
        await own(*of, **named)


@fault(END_LOST, (Start, "_end_what_runs"), knobs="second_begin", seeds=20)
async def begins_after_doubtful_end(own: Any, self: Any) -> bool:
    """B is sent after an E without an answer: it destroys a transaction that was not ended."""
    return bool(await own(self) or self._end_is_doubtful)


@fault(END_WITHOUT_ANSWER, (Start, "_end_what_runs"), knobs="begin_spoils_signature", seeds=20)
async def late_end_not_awaited(own: Any, self: Any) -> bool:
    """An E is refused because the meter acted on an earlier one: B is sent while the meter still signs."""
    self._end_is_doubtful = False
    with patch.object(Ledger, "expects_receipt", lambda *_: False):
        return bool(await own(self))


@fault(LOST_AND_ANOTHER, (Provisioning, "record_gateway"))
def set_up_once(own: Any, self: Any, gateway: Any) -> None:
    """A meter is not initialised again after a power cut: every later start fails."""
    if gateway.is_set or not self.initialised:
        own(self, gateway)


@fault(ONE, (MeterClient, "set_gw"), (MeterClient, "set_datetime"))
async def clock_never_set(own: Any, self: Any, *of: str, timeout_s: float | None = None) -> None:
    """The meter's clock is set to the year 2000: a receipt begins at a wrong time."""
    if own.__name__ == "set_gw":
        CT, CI, TM = of
        await own(self, CT, CI, "2000-01-01T00:00:00,000+0100" if TM else TM, timeout_s=timeout_s)


@fault(CURRENT_FLOWS, (Ledger, "no_receipt_comes"))
def given_up_while_it_runs(_own: Any, _self: Any, entry: Any, at_s: float) -> bool:
    """A transaction is given up 15 s after its E was refused, although it still runs: it is never ended."""
    return entry.end_answered_s is not None and at_s - entry.end_answered_s >= 15.0


@fault(ONE, (Start, "run"))
async def ended_without_request(own: Any, self: Any) -> Any:
    """A transaction is ended soon after its begin without a request."""
    answer = await own(self)
    newest = self._meter.ledger.newest(self.request.transaction_id)
    if newest is not None:
        self._meter.ledger.mark(newest, unwanted=True)
    return answer


@fault(AWAY_AT_THE_STOP, (MeterDriver, "stop_transaction"))
async def failed_stop_fails_for_ever(own: Any, self: Any, transaction_id: str) -> Any:
    """A stop that failed once fails for ever: its receipt exists, but is never delivered."""
    self._refused = refused = getattr(self, "_refused", {})
    answer = refused.get(transaction_id) or await own(self, transaction_id)
    if answer.error:
        refused[transaction_id] = answer
    return answer


@fault(STOPPED_AGAIN, (ReceiptKeeper, "read"))
async def not_recalled(_own: Any, self: Any, serial: str = "") -> str:
    """After a kill the next process does not read the journal: a repeated stop ends another transaction."""
    self.is_read = True
    self._recalled_serials.add(serial)
    self._read.set()
    return ""


@fault(ONE, (ReceiptKeeper, "_kept_by"))
async def kept_after_the_reply(own: Any, self: Any, *of: Any) -> None:
    """A receipt is written seconds after its delivery: until then it is not in the journal."""

    async def store_later() -> None:
        await asyncio.sleep(20.0)
        await own(self, *of)

    self._start(store_later())


@fault(ONE, (ReceiptKeeper, "deliver"))
async def tasks_stay(own: Any, self: Any, *of: Any) -> Any:
    """Every delivered receipt leaves a task."""
    self._leaked = [*getattr(self, "_leaked", ()), asyncio.create_task(asyncio.sleep(1e6))]
    return await own(self, *of)


@fault(REGISTER_FALLS, (MeterState, "_held"))
def fallen_register_published(_own: Any, _self: Any, _serial: Any, _register: Any, energy_wh: Any) -> Any:
    """The value of a register that fell is published: the energy falls."""
    return energy_wh


@fault(ONE, (MeterState, "publish"))
def publishing_fails(own: Any, self: Any) -> None:
    """Publishing raises an exception that only a log shows."""
    own(self)
    if self.value is not None and int(self.value.import_wh) % 2:
        raise KeyError("odd")


@fault(AWAY_AT_THE_START, (StatusPublisher, "_check"))
def check_is_false(own: Any, self: Any) -> None:
    """The communication check says ``false`` for an unreachable meter."""
    own(self)
    if not self.reachable:
        self._bus.offer(self._topics.check, b"false", good_for_s=2.0)


@fault(REFUSED, (Requests, "_answered"))
def no_reply_on_failure(own: Any, self: Any, command: str, reply: Any, answer: Any, **rest: Any) -> None:
    """Only successful commands are answered."""
    if answer["status"] == "OK":
        own(self, command, reply, answer, **rest)


@fault(REFUSED, (EverestModule, "_start_transaction"))
def handler_raises(own: Any, self: Any, arguments: Any) -> Any:
    """A handler raises an exception for every error that the driver returns."""
    answer = own(self, arguments)
    if answer["status"] != "OK":
        raise ValueError(answer.get("error"))
    return answer
