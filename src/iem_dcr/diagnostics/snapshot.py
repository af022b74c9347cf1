"""Reads a meter once, by GET requests that a meter accepts at any time: live value, charge point and key."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from iem_dcr import ocmf
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import MeterError, ReceiptError
from iem_dcr.meter_time import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from iem_dcr.device.client import MeterClient
    from iem_dcr.device.messages import Gateway, MeterValue, PublicKey

_FORM_BY_HEX_DIGITS = {128: "X‖Y as hex", 130: "04‖X‖Y as hex"}


def utc_now() -> datetime:
    """Return the host's time."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class TimedValue:
    """A live value.

    Attributes:
        asked_s: the loop's time at which it was asked for.
        took_s: time until the answer.
        read_at: the host's time at which it was read: halfway between question and answer.
    """

    value: MeterValue
    asked_s: float
    took_s: float
    read_at: datetime

    @property
    def clock_offset(self) -> timedelta | None:
        """The meter's time minus the host's, or None if the value has no time."""
        return None if self.value.TM is None else self.value.TM.instant - self.read_at


@dataclass(frozen=True, slots=True)
class Key:
    """The meter's public key: algorithm and key as the meter writes them, hex of DER, and the form that it writes."""

    SA: str
    PK: str
    der_hex: str
    form: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a meter answered.

    Attributes:
        clock_offset: the meter's time minus this host's, or None if the meter's cannot be read.
        problems: why there is no gateway (``gw``) or no key (``publickey``).
    """

    address: str
    value: MeterValue
    clock_offset: timedelta | None
    gateway: Gateway | None = None
    key: Key | None = None
    problems: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return the snapshot as JSON types. The meter's names are kept; other names contain their unit."""
        gateway, key = self.gateway, self.key
        return {
            "address": self.address,
            "metervalue": metervalue_json(self.value),
            "gw": gateway and {"CT": gateway.CT, "CI": gateway.CI, "TM": gateway.TM and rfc3339(gateway.TM.instant)},
            "publickey": key and asdict(key),
            "clock_ahead_s": None if self.clock_offset is None else round(self.clock_offset.total_seconds(), 3),
            "problems": self.problems,
        }


def metervalue_json(value: MeterValue) -> dict[str, object]:
    """Return a live value as JSON types. The meter's names are kept; other names contain their unit."""
    return {
        "MS": value.MS,
        "TM": None if value.TM is None else rfc3339(value.TM.instant),
        "TM_sync": None if value.TM is None else value.TM.sync,
        "EF": value.EF,
        "ST": value.ST,
        "XT": value.XT,
        "XS": value.XS,
        "XC": value.XC,
        "healthy": None if value.has_error is None else not value.has_error,
        "U2": _float(value.U2),
        "I": _float(value.I),
        "P": _float(value.P),
        "import_wh": float(value.import_wh),
        "export_wh": _float(value.export_wh),
        "transaction_wh": _float(value.transaction_wh),
    }


async def read_value(client: MeterClient, wall: Callable[[], datetime] = utc_now) -> TimedValue:
    """Read a live value at once; a client with ``pause_s`` has to have paused already.

    Raises:
        MeterError: the meter gave no live value.
    """
    asked, asked_s = wall(), now_s()
    value = await client.metervalue()
    took_s = now_s() - asked_s
    return TimedValue(value, asked_s, took_s, asked + timedelta(seconds=took_s / 2))


async def take_snapshot(client: MeterClient) -> Snapshot:
    """Read a meter once.

    Raises:
        MeterError: the meter gave no live value. A missing charge point or key is recorded in the snapshot instead.
    """
    timed = await read_value(client)
    return Snapshot(client.address, timed.value, timed.clock_offset, *await read_gateway_and_key(client))


async def read_gateway_and_key(client: MeterClient) -> tuple[Gateway | None, Key | None, dict[str, str]]:
    """Read charge point and key. The last item says why there is no gateway (``gw``) or no key (``publickey``)."""
    gateway = key = None
    problems = {}
    try:
        gateway = await client.gw()
    except MeterError as error:
        problems["gw"] = error.brief
    try:
        key = key_of(await client.publickey())
    except MeterError as error:
        problems["publickey"] = error.brief
    except ReceiptError as error:
        problems["publickey"] = str(error)
    return gateway, key, problems


def key_of(answer: PublicKey) -> Key:
    """Parse a key, and name the form in which it is written.

    Raises:
        ReceiptError: the key is not one of secp256r1, or its point is not on the curve.
    """
    der_hex = ocmf.public_key_der_hex(answer.PK)
    written = "".join(answer.PK.split())
    if written.lower() == der_hex.lower():
        form = "DER as hex"
    else:
        form = _FORM_BY_HEX_DIGITS.get(len(written), "DER as base64")
    return Key(answer.SA, answer.PK, der_hex, form)


def _float(number: Decimal | None) -> float | None:
    return None if number is None else float(number)
