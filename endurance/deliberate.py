"""Faults that are put into the driver on purpose, one at a time: each breaks a promise, and the runs have to show it.

Each is an error that somebody could make: it loses a receipt, swaps it for another's, or keeps the charger from
charging. A fault is a function that has it in the program as long as the context it returns is entered; its sentence
says what is broken. `FAULTS` says of each which sessions show it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from endurance import deliberate_station
from endurance.knobs import KNOWN
from endurance.plan import Plan, SessionPlan, Step, make
from endurance.replacing import instead
from iem_dcr.device.client import MeterClient
from iem_dcr.driver import driver, receipt_keeper, receipt_matching, stop
from iem_dcr.driver.driver import MeterDriver
from iem_dcr.driver.ledger import Ledger
from iem_dcr.driver.meter_state import MeterState
from iem_dcr.driver.provisioning import Provisioning
from iem_dcr.driver.receipt_keeper import ReceiptKeeper
from iem_dcr.driver.receipt_matching import Entitlement, Right
from iem_dcr.driver.start import Starting, _Start
from iem_dcr.driver.transitions import AWAITED, State
from iem_dcr.driver.upkeep import Upkeep
from iem_dcr.errors import MeterError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    Fault = AbstractContextManager[None]


async def _nothing(*_: Any) -> None:
    return None


async def _goes_on(*_: Any) -> bool:
    return True


# --- whose a receipt is ---


def any_new_receipt_closes() -> Fault:
    """An entry is closed by any new receipt: a stop gets a stranger's."""
    return instead(receipt_matching, is_ours=lambda _receipt, entry: entry.state in AWAITED)


def matched_by_id_alone() -> Fault:
    """An entry is closed by any new receipt of the same card: a stop gets that of the transaction before."""

    def shows_its_ID(receipt: Any, entry: Any) -> bool:  # noqa: N802  OCMF's name
        return entry.state not in (State.CLOSED, State.REFUSED) and receipt.identification in (None, entry.ID)

    return instead(receipt_matching, is_ours=shows_its_ID)


def id_without_influence() -> Fault:
    """A stop ends whatever runs, and gets its receipt."""
    return instead(stop, entitlement=lambda *_: Entitlement(Right.WHATEVER_RUNS))


def refused_start_forgotten() -> Fault:
    """The stop of a start that was refused is not known to have no receipt: it gets another's."""
    return instead(Ledger, refuse=lambda *_: None)


def remembered_under_the_id_before() -> Fault:
    """A receipt is remembered under the id of the one before."""
    own = Ledger._own
    before: dict[int, str] = {}

    def one_late(self: Ledger, receipt: Any, transaction_id: str, *, answers: bool) -> None:
        own(self, receipt, before.get(id(self), transaction_id), answers=answers)
        before[id(self)] = transaction_id

    return instead(Ledger, _own=one_late)


def tidied() -> Fault:
    """A receipt is not handed over as the meter wrote it: its signature is that of another text."""
    signed_value = receipt_keeper.signed_value

    def with_blanks(receipt: Any, public_key: str) -> Any:
        value = signed_value(receipt, public_key)
        return replace(value, signed_meter_data=value.signed_meter_data.replace('","', '", "'))

    return instead(receipt_keeper, signed_value=with_blanks)


# --- beginning ---


def doubtful_begin_forgotten() -> Fault:
    """A B without an answer counts as not acted on: what it began runs on, and nobody is to pay for it."""

    def forgets(self: Ledger, entry: Any, _at_s: float) -> Any:
        self.on_begin_refused(entry)
        return entry

    return instead(Ledger, on_begin_unanswered=forgets)


def begin_repeated_blindly() -> Fault:
    """A B without an answer is sent again at once: the second's answer is taken for that of the first."""
    begin = MeterClient.begin

    async def twice(self: MeterClient, *, timeout_s: float | None = None) -> None:
        try:
            await begin(self, timeout_s=timeout_s)
        except MeterError as error:
            if not error.may_have_acted:
                raise
            await begin(self, timeout_s=timeout_s)

    return instead(MeterClient, begin=twice)


def start_ends_nothing() -> Fault:
    """B goes out without an E before it: a meter that takes a second B destroys what runs."""
    return instead(_Start, _end_what_runs=_goes_on)


def begins_after_doubtful_end() -> Fault:
    """B goes out after an E that had no answer: what runs may not have been ended, and is destroyed."""
    end = _Start._end_what_runs

    async def believes(self: _Start) -> bool:
        return await end(self) or self._end_is_doubtful

    return instead(_Start, _end_what_runs=believes)


def late_end_not_awaited() -> Fault:
    """An E is refused because an earlier one was acted on: B goes out while the meter still signs."""
    end = _Start._end_what_runs

    async def forgets(self: _Start) -> bool:
        self._end_is_doubtful = False
        with instead(Ledger, expects_receipt=False):
            return await end(self)

    return instead(_Start, _end_what_runs=forgets)


def receipt_not_awaited() -> Fault:
    """B follows an accepted E at once, while the meter still signs: the receipt is lost."""
    return instead(_Start, _wait_for_receipt=_goes_on)


def any_connector() -> Fault:
    """A start for a connector that the meter does not hold is accepted: the receipt shows another one."""
    return instead(_Start, _unfit=lambda *_: "")


def set_up_once() -> Fault:
    """A meter is not set up again after a power cut: no start succeeds any more."""
    take_up = Provisioning.take_up

    def once(self: Provisioning, gateway: Any) -> None:
        if gateway.is_set or not self.initialised:
            take_up(self, gateway)

    return instead(Provisioning, take_up=once)


def clock_never_set() -> Fault:
    """The meter's clock is set to the year 2000: a receipt begins at a time that never was."""
    set_gw = MeterClient.set_gw

    async def at_the_epoch(self: MeterClient, CT: str, CI: str, TM: str, *, timeout_s: float | None = None) -> None:
        await set_gw(self, CT, CI, "2000-01-01T00:00:00,000+0100" if TM else TM, timeout_s=timeout_s)

    async def nowhere(_self: MeterClient, _TM: str, *, timeout_s: float | None = None) -> None:  # noqa: ARG001
        return None

    return instead(MeterClient, set_gw=at_the_epoch, set_datetime=nowhere)


# --- ending ---


def given_up_while_it_runs() -> Fault:
    """A transaction is given up 15 s after its E was refused, though it is seen running: it is never ended."""

    def too_early(_self: Ledger, entry: Any, at_s: float) -> bool:
        return entry.end_answered_s is not None and at_s - entry.end_answered_s >= 15.0

    return instead(Ledger, no_receipt_comes=too_early)


def unwanted_goes_on() -> Fault:
    """What the station was told has not begun is not ended by the driver."""
    return instead(Upkeep, _end_unwanted=_nothing)


def wanted_ended() -> Fault:
    """What was begun is ended soon after, as if nobody wanted it."""
    start = Starting.start

    async def and_ends(self: Starting, request: Any, deadline: Any) -> Any:
        answer = await start(self, request, deadline)
        newest = self._meter.ledger.newest(request.transaction_id)
        if newest is not None:
            self._meter.ledger.mark(newest, unwanted=True)
        return answer

    return instead(Starting, start=and_ends)


def no_means_no() -> Fault:
    """A stop that failed once fails for ever: its receipt is there, and nobody gets it."""
    stop_transaction = MeterDriver.stop_transaction
    refused: dict[tuple[int, str], Any] = {}

    async def once(self: MeterDriver, transaction_id: str) -> Any:
        of = id(self), transaction_id
        answer = refused.get(of) or await stop_transaction(self, transaction_id)
        if answer.error:
            refused[of] = answer
        return answer

    return instead(MeterDriver, stop_transaction=once)


def deadline_ignored() -> Fault:
    """A command may take ten minutes while the meter is away."""
    return instead(driver, START_S=600.0, STOP_S=600.0, SILENT_STOP_S=600.0)


# --- what is kept ---


def never_noted() -> Fault:
    """No entry is written: the process after a kill ends another for one that was lost."""
    return instead(ReceiptKeeper, note=_nothing, note_later=lambda *_: None)


def not_recalled() -> Fault:
    """The journal is not read by the process after a kill: a stop that comes again ends what runs now."""

    async def knows_nothing(self: ReceiptKeeper, serial: str = "") -> str:
        self.is_read = True
        self._recalled_serials.add(serial)
        self._read.set()
        return ""

    return instead(ReceiptKeeper, read=knows_nothing)


def kept_after_the_reply() -> Fault:
    """A receipt is written seconds after it was handed over: it is not in the journal yet."""
    kept_by = ReceiptKeeper._kept_by

    async def later(self: ReceiptKeeper, *of: Any) -> None:
        async def at_last() -> None:
            await asyncio.sleep(20.0)
            await kept_by(self, *of)

        self._start(at_last())

    return instead(ReceiptKeeper, _kept_by=later)


def found_not_kept() -> Fault:
    """A receipt that no stop asks for is not kept."""
    return instead(ReceiptKeeper, found=lambda *_: None)


def tasks_stay() -> Fault:
    """Every receipt that is handed over leaves a task behind."""
    deliver = ReceiptKeeper.deliver

    async def and_waits(self: ReceiptKeeper, *of: Any) -> Any:
        self._leaked = [*getattr(self, "_leaked", ()), asyncio.create_task(asyncio.sleep(1e6))]  # type: ignore[attr-defined]
        return await deliver(self, *of)

    return instead(ReceiptKeeper, deliver=and_waits)


# --- what is published ---


def fallen_register_published() -> Fault:
    """A register that fell is published as it is: the energy falls."""
    return instead(MeterState, _held=lambda _self, _serial, _register, energy_wh: energy_wh)


def publishing_fails() -> Fault:
    """Publishing raises, and is caught where nobody looks."""
    publish = MeterState.publish

    def fails_at_odd_values(self: MeterState) -> None:
        publish(self)
        if self.value is not None and int(self.value.import_wh) % 2:
            raise KeyError("odd")

    return instead(MeterState, publish=fails_at_odd_values)


# --- the sessions that show them ---


def _start(at_s: float, transaction_id: str, **fields: Any) -> Step:
    request = {
        "evse_id": "DE*SIM*E1",
        "transaction_id": transaction_id,
        "identification_status": "ASSIGNED",
        "identification_flags": [],
        "identification_type": "ISO14443",
        "identification_data": transaction_id.replace("T-", "04AA"),
    }
    return Step(at_s, "start", {"request": request | fields})


def _stop(at_s: float, transaction_id: str) -> Step:
    return Step(at_s, "stop", {"transaction_id": transaction_id})


def _fault(at_s: float, kind: str, method: str = "POST", node: str = "/receipt", count: int = 1) -> Step:
    return Step(at_s, "wire_fault", {"kind": kind, "method": method, "node": node, "count": count})


def _at_begin(what: str, then: dict[str, Any]) -> Step:
    """Have something happen when the user is assigned: the next POST /receipt is B."""
    return Step(0.0, "set_trap", {"method": "POST", "node": "/user", "delay_s": 0.0, "what": what, "then": then})


def _at_end(what: str, then: dict[str, Any]) -> Step:
    """Have something happen at the next POST /receipt, while T-1 runs: it is E."""
    return Step(2.9, "set_trap", {"method": "POST", "node": "/receipt", "delay_s": 0.0, "what": what, "then": then})


def _power_is_cut(at_s: float) -> Step:
    return Step(at_s, "cut_power", {"off_s": 0.2, "boot_s": 0.5, "open_at_power_cut": "lost"})


def _away(at_s: float, for_s: float) -> Step:
    return Step(at_s, "network_swallows", {"for_s": for_s})


_KILL: Final = {"away_s": 0.2}
_SWALLOWED: Final = {"method": "POST", "node": "/receipt", "delay_s": 0.0, "what": "network_swallows"}
ONE: Final = _start(0.0, "T-1"), _stop(6.0, "T-1")
TWO: Final = _start(0.0, "T-1"), _start(3.0, "T-2"), _stop(6.0, "T-2"), _stop(8.0, "T-1")
"""The second is begun while the first runs."""
END_WITHOUT_ANSWER: Final = _start(0.0, "T-1"), _fault(2.9, "lose-answer"), _start(3.0, "T-2"), _stop(9.0, "T-2")
END_LOST: Final = _start(0.0, "T-1"), _fault(2.9, "lose-request"), _start(3.0, "T-2"), _stop(9.0, "T-2")
BEGIN_WITHOUT_ANSWER: Final = (
    _at_begin("wire_fault", {"kind": "lose-answer", "method": "POST", "node": "/receipt"}),
    _start(0.0, "T-1"),
    _stop(10.0, "T-1"),
)
BEGIN_STAYS_IN_DOUBT: Final = _at_begin("set_trap", _SWALLOWED | {"then": {"for_s": 40.0}}), _start(0.0, "T-1")
"""The meter acts on B, and cannot be asked for longer than a start may take."""
STRANGER_IN_ITS_PLACE: Final = (
    _start(0.0, "T-1"),
    _power_is_cut(1.0),
    Step(1.9, "begin_by_hand"),
    Step(2.3, "end_by_hand"),
    _stop(6.0, "T-1"),
)
"""A power cut loses ours, and a stranger's is begun before the driver can look."""
SAME_CARD: Final = (
    _start(0.0, "T-1"),
    Step(3.0, "kill", {"away_s": 1.0}),
    Step(3.3, "end_by_hand"),
    _fault(3.9, "garbage", "GET", "/transaction", 20),
    _fault(3.9, "garbage", "GET", "/receipt", 20),
    _start(6.0, "T-2", identification_data="04AA1"),
    Step(14.0, "wire_heals"),
    _stop(14.5, "T-2"),
)
"""The receipt before cannot be read before B, and shows the same card."""
LOST_AND_ANOTHER: Final = (
    _start(0.0, "T-1"),
    _power_is_cut(1.0),
    _start(4.0, "T-2"),
    _stop(8.0, "T-1"),
    _stop(12.0, "T-2"),
)
LOST_BEHIND_ITS_BACK: Final = (
    _start(0.0, "T-1"),
    Step(3.0, "kill", _KILL),
    _power_is_cut(5.0),
    _start(9.0, "T-2"),
    _stop(13.0, "T-1"),
    _stop(17.0, "T-2"),
)
"""The process that began a transaction is gone, and so is the transaction: what runs is another."""
STOPPED_AGAIN: Final = (
    _start(0.0, "T-1"),
    _stop(3.0, "T-1"),
    Step(5.0, "kill", _KILL),
    _start(7.0, "T-2"),
    _stop(10.0, "T-1"),
    _stop(13.0, "T-2"),
)
"""A stop comes again to a process that did not serve the first, while another transaction runs."""
REFUSED: Final = (
    _start(0.0, "T-1"),
    _stop(3.0, "T-1"),
    _start(5.0, "T-2", evse_id="DE*OTHER*E9"),
    _stop(8.0, "T-2"),
)
CURRENT_FLOWS: Final = (
    _start(0.0, "T-1"),
    Step(1.0, "current_flows", {"for_s": 40.0}),
    _stop(3.0, "T-1"),
    _stop(70.0, "T-1"),
)
AWAY_AT_THE_STOP: Final = (
    _start(0.0, "T-1"),
    _at_end("network_swallows", {"for_s": 130.0}),
    _stop(3.0, "T-1"),
)
"""The meter acts on E, and is out of reach for longer than a stop may take; then it is there again."""
AWAY_AT_THE_START: Final = _away(1.0, 80.0), _start(2.0, "T-1")
ENDED_IN_A_START: Final = _away(1.0, 10.0), _start(1.5, "T-1"), Step(3.0, "restart", _KILL)
KILLED_IN_A_FAULT: Final = _away(1.0, 40.0), Step(20.0, "kill", _KILL)
"""The process is killed while the station is told that the meter does not answer, and it still does not."""
REGISTER_FALLS: Final = (Step(3.0, "register_falls", {"to_wh": 0}),)


@dataclass(frozen=True, slots=True)
class Deliberate:
    """A fault put in on purpose, and what shows it.

    Attributes:
        applied: has it in the program while the context is entered.
        steps: of the session that shows it; one more, in a calm, ends every run.
        knobs: which meters.
        seeds: of the runs; the first that breaks a promise is enough.
    """

    applied: Callable[[], Fault]
    steps: tuple[Step, ...]
    knobs: str = KNOWN
    seeds: range = range(1000, 1005)

    @property
    def name(self) -> str:
        """Its name."""
        return self.applied.__name__

    @property
    def breaks(self) -> str:
        """What comes of it."""
        return self.applied.__doc__ or ""

    @property
    def sessions(self) -> int:
        """How many sessions are enough to show it."""
        return 2 * len(self.seeds)

    def run_of(self, seed: int) -> Plan:
        """Return the run of a seed: its meter and its process, and the steps."""
        length_s = self.steps[-1].at_s + AFTER_LAST_STEP_S
        return replace(make(seed, 1, self.knobs), sessions=(SessionPlan(0, length_s, self.steps),))


AFTER_LAST_STEP_S: Final = 5.0
SPOILS: Final = "begin_spoils_signature"
FAULTS: Final = (
    Deliberate(any_new_receipt_closes, STRANGER_IN_ITS_PLACE),
    Deliberate(matched_by_id_alone, SAME_CARD, seeds=range(1000, 1040)),
    Deliberate(id_without_influence, LOST_AND_ANOTHER),
    Deliberate(refused_start_forgotten, REFUSED),
    Deliberate(remembered_under_the_id_before, TWO),
    Deliberate(tidied, ONE),
    Deliberate(doubtful_begin_forgotten, BEGIN_STAYS_IN_DOUBT),
    Deliberate(begin_repeated_blindly, BEGIN_WITHOUT_ANSWER, "second_begin", range(1000, 1040)),
    Deliberate(start_ends_nothing, TWO, "second_begin", range(1000, 1020)),
    Deliberate(begins_after_doubtful_end, END_LOST, "second_begin", range(1000, 1020)),
    Deliberate(late_end_not_awaited, END_WITHOUT_ANSWER, SPOILS, range(1000, 1020)),
    Deliberate(receipt_not_awaited, TWO, SPOILS),
    Deliberate(any_connector, REFUSED),
    Deliberate(set_up_once, LOST_AND_ANOTHER),
    Deliberate(clock_never_set, ONE),
    Deliberate(given_up_while_it_runs, CURRENT_FLOWS),
    Deliberate(unwanted_goes_on, BEGIN_STAYS_IN_DOUBT),
    Deliberate(wanted_ended, ONE),
    Deliberate(no_means_no, AWAY_AT_THE_STOP),
    Deliberate(deadline_ignored, AWAY_AT_THE_START),
    Deliberate(never_noted, LOST_BEHIND_ITS_BACK),
    Deliberate(not_recalled, STOPPED_AGAIN),
    Deliberate(kept_after_the_reply, ONE),
    Deliberate(found_not_kept, TWO[:3]),
    Deliberate(tasks_stay, ONE),
    Deliberate(fallen_register_published, REGISTER_FALLS),
    Deliberate(publishing_fails, ONE),
    Deliberate(deliberate_station.check_is_false, AWAY_AT_THE_START),
    Deliberate(deliberate_station.no_reply_on_failure, REFUSED),
    Deliberate(deliberate_station.left_waiting, ENDED_IN_A_START),
    Deliberate(deliberate_station.handler_raises, REFUSED),
    Deliberate(deliberate_station.error_stays, AWAY_AT_THE_START),
    Deliberate(deliberate_station.errors_of_before, KILLED_IN_A_FAULT),
)
