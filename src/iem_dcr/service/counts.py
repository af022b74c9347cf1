"""What is counted of one meter for whoever monitors it: plain numbers, in as little memory as they fit in.

It knows no format and imports no library for one: what is never asked for costs a few additions a second.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from iem_dcr.diagnostics.status import is_new_transaction
from iem_dcr.driver.meter_state import ERROR_STATE, INTERRUPTED, WRONG_SERIAL
from iem_dcr.errors import (
    AnswerLostError,
    MeterError,
    MeterTimeoutError,
    MeterUnreachableError,
    NotUnderstoodError,
    RefusedError,
)

if TYPE_CHECKING:
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.ocmf import Outcome
    from iem_dcr.powermeter import StationError

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""From what a meter on a good network needs to the time after which a request is given up; a driver waits 2 s for a
live value."""
LIVE_VALUE: Final = "live_value"
READ: Final = "read"
WRITE: Final = "write"
REQUESTS: Final = (LIVE_VALUE, READ, WRITE)
"""GET /metervalue; every other GET; every POST."""
REASONS: Final = {
    MeterUnreachableError: "unreachable",
    MeterTimeoutError: "timeout",
    AnswerLostError: "answer_lost",
    RefusedError: "refused",
    NotUnderstoodError: "not_understood",
}
"""Why a request failed."""
OTHER: Final = "other"
COMMUNICATION: Final = "communication"
FAULTS: Final = (COMMUNICATION, "error_state", "wrong_meter", "transaction_interrupted")
COMMANDS: Final = ("start", "stop")
RESULTS: Final = ("ok", "failed")
NOT_ACCEPTED: Final = "not_accepted"
VERDICTS: Final = ("valid", NOT_ACCEPTED, "invalid", "not_checked")
_FAULTS: Final = {ERROR_STATE: "error_state", WRONG_SERIAL: "wrong_meter", INTERRUPTED: "transaction_interrupted"}


class Durations:
    """How long requests took.

    Attributes:
        counts: of each bucket of `BUCKETS_S`, and of those that took longer; not cumulated.
        sum_s: seconds of all.
    """

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS_S, duration_s)] += 1
        self.sum_s += duration_s


class Counts:
    """Counts what happens to one meter.

    Attributes:
        durations: of requests that were answered, also with a refusal, by what they were.
        failures: requests that failed, by why.
        commands: the station's starts and stops, by what they were answered.
        begun: transactions that were seen to begin in the meter.
        ended: transactions that were seen to end there.
        raised: faults that were raised at the station.
        active: the faults that stand.
        receipts: that were handed over, each once, by what their check said.
    """

    __slots__ = ("active", "begun", "commands", "durations", "ended", "failures", "raised", "receipts")

    def __init__(self) -> None:
        self.durations = {request: Durations() for request in REQUESTS}
        self.failures = dict.fromkeys((*REASONS.values(), OTHER), 0)
        self.commands = {(command, result): 0 for command in COMMANDS for result in RESULTS}
        self.begun = self.ended = 0
        self.raised = dict.fromkeys(FAULTS, 0)
        self.active: set[str] = set()
        self.receipts = dict.fromkeys(VERDICTS, 0)

    def request(self, method: str, node: str, duration_s: float, error: MeterError | None) -> None:
        """Count a request. A 404 of /transaction is an answer: nothing was signed yet, or it is under v2."""
        is_answer = isinstance(error, RefusedError) and error.status == 404 and node == "/transaction"
        if error is not None and not is_answer:
            self.failures[REASONS.get(type(error), OTHER)] += 1
            if not isinstance(error, RefusedError):
                return
        kind = WRITE if method != "GET" else LIVE_VALUE if node == "/metervalue" else READ
        self.durations[kind].add(duration_s)

    def value(self, before: MeterValue | None, value: MeterValue) -> None:
        """Count what a live value shows of transactions, compared with the one before of the same meter."""
        if before is None:
            return
        other = is_new_transaction(before, value)
        self.begun += bool(value.XT) and (not before.XT or other)
        self.ended += bool(before.XT) and (not value.XT or other)

    def command(self, command: str, *, is_ok: bool) -> None:
        """Count the answer to a start or a stop."""
        self.commands[command, RESULTS[not is_ok]] += 1

    def fault_raised(self, error: StationError) -> None:
        """Count a fault."""
        fault = _FAULTS.get(error.sub_type, COMMUNICATION)
        self.raised[fault] += 1
        self.active.add(fault)

    def fault_cleared(self, error: StationError) -> None:
        """Take note that a fault is over."""
        self.active.discard(_FAULTS.get(error.sub_type, COMMUNICATION))

    def receipt(self, outcome: Outcome | None, *, accepted: bool) -> None:
        """Count a receipt that was handed over; ``accepted`` is False where the transparency software refuses it."""
        verdict = "not_checked" if outcome is None else outcome.name.lower()
        self.receipts[verdict if accepted else NOT_ACCEPTED] += 1
