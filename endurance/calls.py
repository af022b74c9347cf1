"""The commands of a station and their answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

SERVICE: Final = "service"
MODULE: Final = "module"
"""The two programs that drive a meter: `iem-dcr run` and the EVerest module."""

EVSE_ID: Final = "DE*SIM*E1"


def start_request(transaction_id: str, card: str) -> dict[str, Any]:
    """Return a request for a start in EVerest's form."""
    return {
        "evse_id": EVSE_ID, "transaction_id": transaction_id, "identification_status": "ASSIGNED",
        "identification_flags": ["RFID_PLAIN"], "identification_type": "ISO14443", "identification_data": card,
    }  # fmt: skip


@dataclass(slots=True, eq=False)
class Call:
    """A command of the station and its answer.

    Attributes:
        process: number of the first process that received it, or None.
        asked_s: when that process received it.
        answered_by: number of the process that answered, if known. A broker may deliver a request to several in turn.
        excused: why it needs no answer, such as a kill of its process; "" if it needs one.
        fresh: no fault was active when it was sent or later.
        owed: it was sent after all faults had ended, for a receipt that the meter has and that was not delivered.
        broker_away_s: how long the broker was away between request and answer.
    """

    command: str
    transaction_id: str
    number: int
    request: dict[str, Any] = field(default_factory=dict)
    process: int | None = None
    asked_s: float | None = None
    answered_s: float | None = None
    answer: dict[str, Any] | None = None
    answered_by: int | None = None
    excused: str = ""
    fresh: bool = False
    owed: bool = False
    broker_away_s: float = 0.0

    @property
    def ok(self) -> bool:
        return self.answer is not None and self.answer.get("status") == "OK"

    @property
    def took_s(self) -> float:
        """Seconds from the request to the answer, if there are both."""
        return (self.answered_s or 0.0) - (self.asked_s or 0.0)

    @property
    def tuple_text(self) -> str | None:
        signed = (self.answer or {}).get("signed_meter_value")
        return signed.get("signed_meter_data") if isinstance(signed, dict) else None
