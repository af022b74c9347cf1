"""The counters of one meter for the metrics: plain numbers that cost a few additions a second."""

from __future__ import annotations

from bisect import bisect_left
from itertools import product
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
from iem_dcr.powermeter import TransactionRequestStatus

if TYPE_CHECKING:
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.driver import KeptReceipt
    from iem_dcr.powermeter import StationError, TransactionStartResponse, TransactionStopResponse

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""From a fast answer on a good network to the time-out of a request. A driver waits 2 s for a live value."""
_REASONS: Final = {
    MeterUnreachableError: "unreachable",
    MeterTimeoutError: "timeout",
    AnswerLostError: "answer_lost",
    RefusedError: "refused",
    NotUnderstoodError: "not_understood",
}
_OTHER: Final = "other"
_COMMUNICATION: Final = "communication"
_FAULTS: Final = {ERROR_STATE: "error_state", WRONG_SERIAL: "wrong_meter", INTERRUPTED: "transaction_interrupted"}
FAULTS: Final = (_COMMUNICATION, *_FAULTS.values())
_NOT_ACCEPTED: Final = "not_accepted"
_COUNTED: Final = {
    "iem_dcr_faults": (FAULTS,),
    "iem_dcr_transactions_begun": (),
    "iem_dcr_transactions_ended": (),
    "iem_dcr_commands": (("start", "stop"), ("ok", "failed")),
    "iem_dcr_receipts": (("valid", _NOT_ACCEPTED, "invalid", "not_checked"),),
    "iem_dcr_requests_failed": ((*_REASONS.values(), _OTHER),),
}
"""The values of each label, by metric. Every combination is counted from zero, so that no series appears later."""


class Durations:
    """The durations of requests.

    Attributes:
        counts: number of requests in each bucket of `BUCKETS_S`, and of longer ones; not cumulative.
        sum_s: total seconds.
    """

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one request."""
        self.counts[bisect_left(BUCKETS_S, duration_s)] += 1
        self.sum_s += duration_s


class Counters:
    """Counts what happens to one meter. It is the part of the driver's `Observer` that only counts.

    Attributes:
        counts: by metric and the values of its labels.
        durations: of answered requests, refusals included: of GET /metervalue, of every other GET, of every POST.
        active_faults: faults that have not been cleared.
    """

    def __init__(self) -> None:
        self.counts = {(metric, *values): 0 for metric, labels in _COUNTED.items() for values in product(*labels)}
        self.durations = {request: Durations() for request in ("live_value", "read", "write")}
        self.active_faults: set[str] = set()

    def request_made(self, method: str, node: str, duration_s: float, error: MeterError | None) -> None:
        """Count a request. A 404 of /transaction counts as an answer: nothing is signed yet, or v2 has the receipt."""
        is_answer = isinstance(error, RefusedError) and error.status == 404 and node == "/transaction"
        if error is not None and not is_answer:
            self.counts["iem_dcr_requests_failed", _REASONS.get(type(error), _OTHER)] += 1
            if not isinstance(error, RefusedError):
                return
        kind = "write" if method != "GET" else "live_value" if node == "/metervalue" else "read"
        self.durations[kind].add(duration_s)

    def start_answered(self, response: TransactionStartResponse) -> None:
        """Count a start."""
        is_ok = response.status is TransactionRequestStatus.OK
        self.counts["iem_dcr_commands", "start", "ok" if is_ok else "failed"] += 1

    def stop_answered(self, response: TransactionStopResponse) -> None:
        """Count a stop."""
        is_ok = response.status is TransactionRequestStatus.OK
        self.counts["iem_dcr_commands", "stop", "ok" if is_ok else "failed"] += 1

    def error_raised(self, error: StationError) -> None:
        """Count a fault."""
        fault = _FAULTS.get(error.sub_type, _COMMUNICATION)
        self.counts["iem_dcr_faults", fault] += 1
        self.active_faults.add(fault)

    def error_cleared(self, error: StationError) -> None:
        """Remove a fault from the active ones."""
        self.active_faults.discard(_FAULTS.get(error.sub_type, _COMMUNICATION))

    def count_transactions(self, before: MeterValue, value: MeterValue) -> None:
        """Count the transactions that began or ended between two live values of one meter."""
        is_new = is_new_transaction(before, value)
        self.counts[("iem_dcr_transactions_begun",)] += bool(value.XT) and (not before.XT or is_new)
        self.counts[("iem_dcr_transactions_ended",)] += bool(before.XT) and (not value.XT or is_new)

    def count_receipt(self, kept: KeptReceipt) -> None:
        """Count a delivered receipt."""
        verdict = "not_checked" if kept.outcome is None else kept.outcome.name.lower()
        self.counts["iem_dcr_receipts", verdict if kept.accepted else _NOT_ACCEPTED] += 1
