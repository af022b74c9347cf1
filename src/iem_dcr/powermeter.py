"""The types of EVerest's interface `powermeter`, under EVerest's names.

Values are exact (`Decimal`) until `to_json` converts them to plain JSON types, with times in RFC 3339.
`TransactionReq.from_json` reads a station's request and refuses values that the interface does not allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from iem_dcr.errors import RequestError, printable
from iem_dcr.meter_time import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from decimal import Decimal

IDENTIFICATION_STATUS = ("ASSIGNED", "NOT_ASSIGNED")
IDENTIFICATION_LEVEL = (
    "NONE",
    "HEARSAY",
    "TRUSTED",
    "VERIFIED",
    "CERTIFIED",
    "SECURE",
    "MISMATCH",
    "INVALID",
    "OUTDATED",
    "UNKNOWN",
)
IDENTIFICATION_ERROR_LEVELS = ("MISMATCH", "INVALID", "OUTDATED", "UNKNOWN")
IDENTIFICATION_FLAGS = (
    "RFID_NONE",
    "RFID_PLAIN",
    "RFID_RELATED",
    "RFID_PSK",
    "OCPP_NONE",
    "OCPP_RS",
    "OCPP_AUTH",
    "OCPP_RS_TLS",
    "OCPP_AUTH_TLS",
    "OCPP_CACHE",
    "OCPP_WHITELIST",
    "OCPP_CERTIFIED",
    "ISO15118_NONE",
    "ISO15118_PNC",
    "PLMN_NONE",
    "PLMN_RING",
    "PLMN_SMS",
)
IDENTIFICATION_TYPE = (
    "NONE",
    "DENIED",
    "UNDEFINED",
    "ISO14443",
    "ISO15693",
    "EMAID",
    "EVCCID",
    "EVCOID",
    "ISO7812",
    "CARD_TXN_NR",
    "CENTRAL",
    "CENTRAL_1",
    "CENTRAL_2",
    "LOCAL",
    "LOCAL_1",
    "LOCAL_2",
    "PHONE_NUMBER",
    "KEY_CODE",
)
MAX_IDENTIFICATION_FLAGS = 4

_REQUEST_KEYS = frozenset(
    {
        "evse_id",
        "transaction_id",
        "identification_status",
        "identification_level",
        "identification_flags",
        "identification_type",
        "identification_data",
        "tariff_text",
    }
)


class TransactionRequestStatus(StrEnum):
    """The result of a start or stop."""

    OK = "OK"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    UNEXPECTED_ERROR = "UNEXPECTED_ERROR"


@dataclass(frozen=True, slots=True)
class Powermeter:
    """One live value.

    Attributes:
        timestamp: when the meter measured it.
        meter_id: serial number of the meter.
        energy_wh_import: cumulative import register, watt hours, exact.
        energy_wh_export: cumulative export register, watt hours, exact; None for a meter without one.
        power_w: watts; positive is import; None if the meter gave none.
        voltage_v: volts, or None.
        current_a: amperes, or None.
    """

    timestamp: datetime
    meter_id: str
    energy_wh_import: Decimal
    energy_wh_export: Decimal | None
    power_w: Decimal | None
    voltage_v: Decimal | None
    current_a: Decimal | None

    def to_json(self) -> dict[str, object]:
        """Return EVerest's type Powermeter in plain JSON types. Only here does energy become a float."""
        value: dict[str, object] = {
            "timestamp": rfc3339(self.timestamp),
            "meter_id": self.meter_id,
            "energy_Wh_import": {"total": float(self.energy_wh_import)},
        }
        for name, kind, number in (
            ("power_W", "total", self.power_w),
            ("voltage_V", "DC", self.voltage_v),
            ("current_A", "DC", self.current_a),
            ("energy_Wh_export", "total", self.energy_wh_export),
        ):
            if number is not None:
                value[name] = {kind: float(number)}
        return value


@dataclass(frozen=True, slots=True)
class SignedMeterValue:
    """A signed receipt for the station.

    Attributes:
        signed_meter_data: the OCMF tuple, byte for byte as the meter sent it.
        public_key: hex of DER SubjectPublicKeyInfo, or "" while it is unknown.
        timestamp: time of the last reading in the tuple, or None if it has none.
    """

    signed_meter_data: str
    public_key: str
    timestamp: datetime | None

    def to_json(self) -> dict[str, object]:
        """Return EVerest's type SignedMeterValue. The signing method is "", because the tuple names it in SA (OCA)."""
        value: dict[str, object] = {
            "signed_meter_data": self.signed_meter_data,
            "signing_method": "",
            "encoding_method": "OCMF",
        }
        if self.public_key:
            value["public_key"] = self.public_key
        if self.timestamp is not None:
            value["timestamp"] = rfc3339(self.timestamp)
        return value


@dataclass(frozen=True, slots=True)
class TransactionReq:
    """A station's request to start a transaction. The fields are EVerest's; absent optional fields are None."""

    evse_id: str
    transaction_id: str
    identification_status: str
    identification_type: str
    identification_flags: tuple[str, ...] = ()
    identification_level: str | None = None
    identification_data: str | None = None
    tariff_text: str | None = None

    @classmethod
    def from_json(cls, value: object) -> TransactionReq:
        """Read a station's request. A tariff text may be longer than EVerest's 250 characters.

        Raises:
            RequestError: a field is missing or unknown, or has a value that EVerest's type does not allow.
        """
        if not isinstance(value, dict):
            raise RequestError(f"a TransactionReq is an object, not {printable(repr(value), limit=40)}")
        unknown = sorted(str(key) for key in value if key not in _REQUEST_KEYS)
        if unknown:
            raise RequestError(f"a TransactionReq has no field {printable(', '.join(unknown))}")
        flags = value.get("identification_flags")
        if not isinstance(flags, list):
            raise RequestError("identification_flags is missing or not a list")
        if len(flags) > MAX_IDENTIFICATION_FLAGS:
            raise RequestError(f"identification_flags has {len(flags)} flags; {MAX_IDENTIFICATION_FLAGS} are allowed")
        for flag in flags:
            _one_of("identification_flags", flag, IDENTIFICATION_FLAGS)
        return cls(
            evse_id=_text(value, "evse_id"),
            transaction_id=_text(value, "transaction_id"),
            identification_status=_choice(value, "identification_status", IDENTIFICATION_STATUS),
            identification_type=_choice(value, "identification_type", IDENTIFICATION_TYPE),
            identification_flags=tuple(flags),
            identification_level=_choice(value, "identification_level", IDENTIFICATION_LEVEL)
            if "identification_level" in value
            else None,
            identification_data=_optional_text(value, "identification_data"),
            tariff_text=_optional_text(value, "tariff_text"),
        )


@dataclass(frozen=True, slots=True)
class TransactionStartResponse:
    """Answer to a start.

    Attributes:
        status: OK, NOT_SUPPORTED (EVerest continues to charge without signing) or UNEXPECTED_ERROR.
        error: the reason, if the status is not OK.
    """

    status: TransactionRequestStatus
    error: str = ""

    def to_json(self) -> dict[str, object]:
        """Return EVerest's type TransactionStartResponse."""
        value: dict[str, object] = {"status": self.status.value}
        if self.error:
            value["error"] = self.error
        return value


@dataclass(frozen=True, slots=True)
class TransactionStopResponse:
    """Answer to a stop.

    Attributes:
        status: OK, with ``signed_meter_value``; or UNEXPECTED_ERROR, with ``error``.
        signed_meter_value: the receipt.
        error: the reason, if the status is not OK.
    """

    status: TransactionRequestStatus
    signed_meter_value: SignedMeterValue | None = None
    error: str = ""

    def to_json(self) -> dict[str, object]:
        """Return EVerest's type TransactionStopResponse."""
        value: dict[str, object] = {"status": self.status.value}
        if self.signed_meter_value is not None:
            value["signed_meter_value"] = self.signed_meter_value.to_json()
        if self.error:
            value["error"] = self.error
        return value


@dataclass(frozen=True, slots=True)
class StationError:
    """An error of the interface `powermeter`, as it is raised at a station.

    Attributes:
        type: ``powermeter/CommunicationFault`` or ``powermeter/VendorError``.
        sub_type: distinguishes errors of one type.
        message: what happened.
    """

    type: str
    sub_type: str
    message: str


def _text(value: Mapping[str, object], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise RequestError(f"{key} must be a string" if key in value else f"{key} is missing")
    return text


def _optional_text(value: Mapping[str, object], key: str) -> str | None:
    return _text(value, key) if key in value else None


def _choice(value: Mapping[str, object], key: str, choices: tuple[str, ...]) -> str:
    return _one_of(key, _text(value, key), choices)


def _one_of(key: str, value: object, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        shown = printable(repr(value), limit=40)
        raise RequestError(f"{key} is {shown}: expected one of {', '.join(choices)}")
    return value
