"""Faults that are put into the program on purpose, one at a time: each breaks a promise, and the runs have to show it.

Each is an error that somebody could make: it loses a receipt, swaps it for another's, or keeps the charger from
charging. Its sentence says what is broken. With it stands where it goes and which session shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import AsyncMock, Mock, patch

from endurance.knobs import KNOWN
from endurance.model import start_request
from endurance.plan import Plan, SessionPlan, Step, make, step
from endurance.process import ModuleProcess
from iem_dcr.device.client import MeterClient
from iem_dcr.driver import driver, receipt_keeper, receipt_matching, stop
from iem_dcr.driver.commands import Command
from iem_dcr.driver.driver import MeterDriver
from iem_dcr.driver.ledger import Ledger
from iem_dcr.driver.meter_state import MeterState
from iem_dcr.driver.provisioning import Provisioning
from iem_dcr.driver.receipt_keeper import ReceiptKeeper
from iem_dcr.driver.receipt_matching import Entitlement, Right
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
    """A fault put in on purpose, and what shows it.

    Attributes:
        name, breaks: of the fault, and what comes of it.
        steps: of the session that shows it; one more, in a calm, ends every run.
        instead: returns what is there instead of what was there.
        places: what is replaced: objects, and the names of their attributes.
        knobs: which meters.
        seeds: of the runs; the first that breaks a promise is enough.
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
        """Have it in the program while the context is entered."""
        with contextlib.ExitStack() as stack:
            for owner, name in self.places:
                stack.enter_context(patch.object(owner, name, self.instead(getattr(owner, name))))
            yield

    def run_of(self, seed: int) -> Plan:
        """Return the run of a seed: its meter and its process, and the steps."""
        length_s = self.steps[-1].at_s + AFTER_LAST_STEP_S
        return replace(make(seed, 1, self.knobs), sessions=(SessionPlan(0, length_s, self.steps),))


def fault(
    steps: tuple[Step, ...], *places: tuple[Any, str], knobs: str = KNOWN, seeds: int = 5
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function a fault: it is called instead of another, which is its first argument; these steps show it."""

    def made(function: Callable[..., Any]) -> Callable[..., Any]:
        def instead(own: Any) -> Callable[..., Any]:
            return lambda *args, **named: function(own, *args, **named)

        name, breaks = function.__name__, function.__doc__ or ""
        FAULTS.append(Deliberate(name, breaks, steps, instead, places, knobs, range(1000, 1000 + seeds)))
        return function

    return made


def _returns(value: Any) -> Callable[[Any], Any]:
    """Return what has a function return this and do nothing else."""
    return lambda own: (AsyncMock if inspect.iscoroutinefunction(own) else Mock)(return_value=value)


# --- the sessions that show them: starts and stops of the transactions T-1 and T-2, and what happens meanwhile ---


def _start(at_s: float, number: int, **fields: Any) -> Step:
    return step(at_s, "start", request=start_request(f"T-{number}", f"04AA{number}") | fields)


def _stop(at_s: float, number: int) -> Step:
    return step(at_s, "stop", transaction_id=f"T-{number}")


def _wire(at_s: float, kind: str, method: str = "POST", node: str = "/receipt", count: int = 1) -> Step:
    return step(at_s, "wire_fault", kind=kind, method=method, node=node, count=count)


def _power_cut(at_s: float) -> Step:
    return step(at_s, "cut_power", off_s=0.2, boot_s=0.5, open_at_power_cut="lost")


def _away(at_s: float, for_s: float) -> Step:
    return step(at_s, "network_swallows", for_s=for_s)


def _kill(at_s: float, away_s: float = 0.2) -> Step:
    return step(at_s, "kill", away_s=away_s)


def _trap(at_s: float, node: str, then: Step) -> Step:
    """Have a step come at the next POST to a node: the POST /receipt after that to /user is B, later it is E."""
    return step(at_s, "set_trap", method="POST", node=node, delay_s=0.0, what=then.what, then=then.detail)


ONE: Final = _start(0, 1), _stop(6, 1)
TWO: Final = _start(0, 1), _start(3, 2), _stop(6, 2), _stop(8, 1)
"""The second is begun while the first runs."""
END_WITHOUT_ANSWER: Final = _start(0, 1), _wire(2.9, "lose-answer"), _start(3, 2), _stop(9, 2)
END_LOST: Final = _start(0, 1), _wire(2.9, "lose-request"), _start(3, 2), _stop(9, 2)
BEGIN_WITHOUT_ANSWER: Final = _trap(0, "/user", _wire(0, "lose-answer")), _start(0, 1), _stop(10, 1)
BEGIN_STAYS_IN_DOUBT: Final = _trap(0, "/user", _trap(0, "/receipt", _away(0, 40.0))), _start(0, 1)
"""The meter acts on B, and cannot be asked for longer than a start may take."""
STRANGER_IN_ITS_PLACE: Final = (
    _start(0, 1), _power_cut(1), step(1.9, "begin_by_hand"), step(2.3, "end_by_hand"), _stop(6, 1),
)  # fmt: skip
"""A power cut loses ours, and a stranger's is begun before the driver can look."""
SAME_CARD: Final = (
    _start(0, 1), _kill(3, 1.0), step(3.3, "end_by_hand"), _wire(3.9, "garbage", "GET", "/transaction", 20),
    _wire(3.9, "garbage", "GET", "/receipt", 20), _start(6, 2, identification_data="04AA1"), step(14, "wire_heals"),
    _stop(14.5, 2),
)  # fmt: skip
"""The receipt before cannot be read before B, and shows the same card."""
LOST_AND_ANOTHER: Final = _start(0, 1), _power_cut(1), _start(4, 2), _stop(8, 1), _stop(12, 2)
LOST_BEHIND_ITS_BACK: Final = _start(0, 1), _kill(3), _power_cut(5), _start(9, 2), _stop(13, 1), _stop(17, 2)
"""The process that began a transaction is gone, and so is the transaction: what runs is another."""
STOPPED_AGAIN: Final = _start(0, 1), _stop(3, 1), _kill(5), _start(7, 2), _stop(10, 1), _stop(13, 2)
"""A stop comes again to a process that did not serve the first, while another transaction runs."""
REFUSED: Final = _start(0, 1), _stop(3, 1), _start(5, 2, evse_id="DE*OTHER*E9"), _stop(8, 2)
CURRENT_FLOWS: Final = _start(0, 1), step(1, "current_flows", for_s=40.0), _stop(3, 1), _stop(70, 1)
AWAY_AT_THE_STOP: Final = _start(0, 1), _trap(2.9, "/receipt", _away(0, 130.0)), _stop(3, 1)
"""The meter acts on E, and is out of reach for longer than a stop may take; then it is there again."""
AWAY_AT_THE_START: Final = _away(1, 80.0), _start(2, 1)
ENDED_IN_A_START: Final = _away(1, 10.0), _start(1.5, 1), step(3, "restart", away_s=0.2)
KILLED_IN_A_FAULT: Final = _away(1, 40.0), _kill(20)
"""The process is killed while the station is told that the meter does not answer, and it still does not."""
REGISTER_FALLS: Final = (step(3, "register_falls", to_wh=0),)


# --- faults that leave something out ---

FAULTS: Final = [
    Deliberate("id_without_influence", "A stop ends whatever runs, and gets its receipt.",
               LOST_AND_ANOTHER, _returns(Entitlement(Right.WHATEVER_RUNS)), [(stop, "entitlement")]),
    Deliberate("refused_start_forgotten", "The stop of a start that was refused gets another's receipt.",
               REFUSED, _returns(None), [(Ledger, "refuse")]),
    Deliberate("start_ends_nothing", "B goes out without an E: a meter that takes a second B destroys what runs.",
               TWO, _returns(value=True), [(Start, "_end_what_runs")], "second_begin", range(1000, 1020)),
    Deliberate("receipt_not_awaited", "B follows E at once, while the meter still signs: the receipt is lost.",
               TWO, _returns(value=True), [(Start, "_wait_for_receipt")], "begin_spoils_signature"),
    Deliberate("any_connector", "A start for a connector that the meter does not hold is accepted.",
               REFUSED, _returns(""), [(Start, "_unfit")]),
    Deliberate("unwanted_goes_on", "What the station was told has not begun is not ended by the driver.",
               BEGIN_STAYS_IN_DOUBT, _returns(None), [(Upkeep, "_end_unwanted")]),
    Deliberate("deadline_ignored", "A command may take ten minutes while the meter is away.", AWAY_AT_THE_START,
               lambda _: 600.0, [(driver, "START_S"), (driver, "STOP_S"), (driver, "SILENT_STOP_S")]),
    Deliberate("never_noted", "No entry is written: the process after a kill ends another for one that was lost.",
               LOST_BEHIND_ITS_BACK, _returns(None), [(ReceiptKeeper, "note"), (ReceiptKeeper, "note_later")]),
    Deliberate("found_not_kept", "A receipt that no stop asks for is not kept.",
               TWO[:3], _returns(None), [(ReceiptKeeper, "found")]),
    Deliberate("left_waiting", "Commands that wait when the module is ended are never answered.",
               ENDED_IN_A_START, _returns(None), [(Command, "drop"), (EverestModule, "answer_what_waits")]),
    Deliberate("error_stays", "An error is never cleared.",
               AWAY_AT_THE_START, _returns(None), [(ModuleProcess, "clear_error")]),
    Deliberate("errors_of_before", "What EVerest holds for active from before a restart is raised once more.",
               KILLED_IN_A_FAULT, _returns(None), [(EverestModule, "_clear_errors_of_before")]),
]  # fmt: skip


# --- faults that do something else ---


@fault(STRANGER_IN_ITS_PLACE, (receipt_matching, "is_ours"))
def any_new_receipt_closes(_own: Any, _receipt: Any, entry: Any) -> bool:
    """An entry is closed by any new receipt: a stop gets a stranger's."""
    return entry.state in AWAITED


@fault(SAME_CARD, (receipt_matching, "is_ours"), seeds=40)
def matched_by_id_alone(_own: Any, receipt: Any, entry: Any) -> bool:
    """An entry is closed by any new receipt of the same card: a stop gets that of the transaction before."""
    return entry.state not in (State.CLOSED, State.REFUSED) and receipt.identification in (None, entry.ID)


@fault(TWO, (Ledger, "_own"))
def remembered_under_the_id_before(own: Any, self: Any, receipt: Any, transaction_id: str, *, answers: bool) -> None:
    """A receipt is remembered under the id of the one before."""
    own(self, receipt, getattr(self, "_id_before", transaction_id), answers=answers)
    self._id_before = transaction_id


@fault(ONE, (receipt_keeper, "signed_value"))
def tidied(own: Any, receipt: Any, public_key: str) -> Any:
    """A receipt is not handed over as the meter wrote it: its signature is that of another text."""
    value = own(receipt, public_key)
    return replace(value, signed_meter_data=value.signed_meter_data.replace('","', '", "'))


@fault(BEGIN_STAYS_IN_DOUBT, (Ledger, "on_begin_unanswered"))
def doubtful_begin_forgotten(_own: Any, self: Any, entry: Any, _at_s: float) -> Any:
    """A B without an answer counts as not acted on: what it began runs on, and nobody is to pay for it."""
    self.on_begin_refused(entry)
    return entry


@fault(BEGIN_WITHOUT_ANSWER, (MeterClient, "begin"), knobs="second_begin", seeds=40)
async def begin_repeated_blindly(own: Any, *of: Any, **named: Any) -> None:
    """A B without an answer is sent again at once: the second's answer is taken for that of the first."""
    try:
        await own(*of, **named)
    except MeterError as error:
        if not error.may_have_acted:
            raise
        await own(*of, **named)


@fault(END_LOST, (Start, "_end_what_runs"), knobs="second_begin", seeds=20)
async def begins_after_doubtful_end(own: Any, self: Any) -> bool:
    """B goes out after an E that had no answer: what runs may not have been ended, and is destroyed."""
    return bool(await own(self) or self._end_is_doubtful)


@fault(END_WITHOUT_ANSWER, (Start, "_end_what_runs"), knobs="begin_spoils_signature", seeds=20)
async def late_end_not_awaited(own: Any, self: Any) -> bool:
    """An E is refused because an earlier one was acted on: B goes out while the meter still signs."""
    self._end_is_doubtful = False
    with patch.object(Ledger, "expects_receipt", lambda *_: False):
        return bool(await own(self))


@fault(LOST_AND_ANOTHER, (Provisioning, "take_up"))
def set_up_once(own: Any, self: Any, gateway: Any) -> None:
    """A meter is not set up again after a power cut: no start succeeds any more."""
    if gateway.is_set or not self.initialised:
        own(self, gateway)


@fault(ONE, (MeterClient, "set_gw"), (MeterClient, "set_datetime"))
async def clock_never_set(own: Any, self: Any, *of: str, timeout_s: float | None = None) -> None:
    """The meter's clock is set to the year 2000: a receipt begins at a time that never was."""
    if own.__name__ == "set_gw":
        CT, CI, TM = of
        await own(self, CT, CI, "2000-01-01T00:00:00,000+0100" if TM else TM, timeout_s=timeout_s)


@fault(CURRENT_FLOWS, (Ledger, "no_receipt_comes"))
def given_up_while_it_runs(_own: Any, _self: Any, entry: Any, at_s: float) -> bool:
    """A transaction is given up 15 s after its E was refused, though it is seen running: it is never ended."""
    return entry.end_answered_s is not None and at_s - entry.end_answered_s >= 15.0


@fault(ONE, (Start, "run"))
async def wanted_ended(own: Any, self: Any) -> Any:
    """What was begun is ended soon after, as if nobody wanted it."""
    answer = await own(self)
    newest = self._meter.ledger.newest(self.request.transaction_id)
    if newest is not None:
        self._meter.ledger.mark(newest, unwanted=True)
    return answer


@fault(AWAY_AT_THE_STOP, (MeterDriver, "stop_transaction"))
async def no_means_no(own: Any, self: Any, transaction_id: str) -> Any:
    """A stop that failed once fails for ever: its receipt is there, and nobody gets it."""
    self._refused = refused = getattr(self, "_refused", {})
    answer = refused.get(transaction_id) or await own(self, transaction_id)
    if answer.error:
        refused[transaction_id] = answer
    return answer


@fault(STOPPED_AGAIN, (ReceiptKeeper, "read"))
async def not_recalled(_own: Any, self: Any, serial: str = "") -> str:
    """The journal is not read by the process after a kill: a stop that comes again ends what runs now."""
    self.is_read = True
    self._recalled_serials.add(serial)
    self._read.set()
    return ""


@fault(ONE, (ReceiptKeeper, "_kept_by"))
async def kept_after_the_reply(own: Any, self: Any, *of: Any) -> None:
    """A receipt is written seconds after it was handed over: it is not in the journal yet."""

    async def at_last() -> None:
        await asyncio.sleep(20.0)
        await own(self, *of)

    self._start(at_last())


@fault(ONE, (ReceiptKeeper, "deliver"))
async def tasks_stay(own: Any, self: Any, *of: Any) -> Any:
    """Every receipt that is handed over leaves a task behind."""
    self._leaked = [*getattr(self, "_leaked", ()), asyncio.create_task(asyncio.sleep(1e6))]
    return await own(self, *of)


@fault(REGISTER_FALLS, (MeterState, "_held"))
def fallen_register_published(_own: Any, _self: Any, _serial: Any, _register: Any, energy_wh: Any) -> Any:
    """A register that fell is published as it is: the energy falls."""
    return energy_wh


@fault(ONE, (MeterState, "publish"))
def publishing_fails(own: Any, self: Any) -> None:
    """Publishing raises, and is caught where nobody looks."""
    own(self)
    if self.value is not None and int(self.value.import_wh) % 2:
        raise KeyError("odd")


@fault(AWAY_AT_THE_START, (StatusPublisher, "_check"))
def check_is_false(own: Any, self: Any) -> None:
    """A meter that is away is told by word."""
    own(self)
    if not self.reachable:
        self._bus.offer(self._topics.check, b"false", good_for_s=2.0)


@fault(REFUSED, (Requests, "_answered"))
def no_reply_on_failure(own: Any, self: Any, command: str, reply: Any, answer: Any, **rest: Any) -> None:
    """Only what succeeded is answered."""
    if answer["status"] == "OK":
        own(self, command, reply, answer, **rest)


@fault(REFUSED, (EverestModule, "_start_transaction"))
def handler_raises(own: Any, self: Any, arguments: Any) -> Any:
    """A handler lets an exception out, when the driver fails as well as when it says no."""
    answer = own(self, arguments)
    if answer["status"] != "OK":
        raise ValueError(answer.get("error"))
    return answer
