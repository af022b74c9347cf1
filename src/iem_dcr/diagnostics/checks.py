"""What is to be thought of what a meter showed: a line for each check. Pure: no I/O, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iem_dcr.config import PIN
from iem_dcr.diagnostics import checks_of_clock, checks_of_connection, checks_of_receipt, checks_of_values
from iem_dcr.diagnostics.report import CHECKS, Line, Report, State
from iem_dcr.diagnostics.status import shown
from iem_dcr.errors import MeterError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from iem_dcr.config import Settings
    from iem_dcr.diagnostics.evidence import Evidence

    Check: TypeAlias = Callable[[Evidence, Settings | None], Line]

_RIGHT_KEY: Final = "ECDSA-secp256r1-SHA256"


def judge(evidence: Evidence, settings: Settings | None = None, *, proxies: tuple[str, ...] = ()) -> Report:
    """Judge what a meter showed.

    Args:
        evidence: what it showed.
        settings: its configuration, to compare serial number, charge point and zone with; None compares nothing.
        proxies: environment variables of this host that send other programs' requests through a proxy.
    """
    if not evidence.is_meter:
        return Report(evidence.address, is_meter=False, lines=(checks_of_connection.no_meter(evidence, proxies),))
    return Report(evidence.address, is_meter=True, lines=tuple(_CHECKS[name](evidence, settings) for name in CHECKS))


def _serial(evidence: Evidence, settings: Settings | None) -> Line:
    value = evidence.last
    if value is None:
        return Line("serial", State.FAILED, checks_of_connection.no_values(evidence))
    # Which serial is pinned stands in the driver's journal, if it has one.
    wanted = settings.meter_serial if settings is not None and settings.meter_serial != PIN else ""
    values: dict[str, object] = {"MS": value.MS, "wanted": wanted or None}
    others = {timed.value.MS for timed in evidence.values} - {value.MS}
    if others:
        text = f"two meters answer at this address: {shown(value.MS)} and {shown(others.pop())}"
        return Line("serial", State.FAILED, text, "Give each an address of its own.", values)
    if wanted and wanted != value.MS:
        text = f"{shown(value.MS)}, but the configuration wants {shown(wanted)}"
        to_do = "This is another meter. Check ip_address, or set meter_serial after an exchange."
        return Line("serial", State.FAILED, text, to_do, values)
    text = shown(value.MS) or "the meter gives none"
    return Line("serial", State.OK if value.MS else State.WARNING, text, "", values)


def _transaction(evidence: Evidence, _: Settings | None) -> Line:
    value = evidence.last
    if value is None:
        return Line("transaction", State.FAILED, checks_of_connection.no_values(evidence))
    text = "one runs" if value.XT else "none runs"
    return Line("transaction", State.OK, text, "", {"XT": value.XT})


def _gateway(evidence: Evidence, settings: Settings | None) -> Line:
    gateway = evidence.gateway
    if gateway is None or isinstance(gateway, MeterError):
        text = "not asked" if gateway is None else shown(gateway.brief)
        return Line("gateway", State.FAILED, text, "Receipts name the charge point: power the meter off and on.")
    wanted = None if settings is None else (settings.CT, settings.CI)
    values: dict[str, object] = {
        "CT": gateway.CT,
        "CI": gateway.CI,
        "wanted_CT": wanted and wanted[0],
        "wanted_CI": wanted and wanted[1],
    }
    found = f"CT {shown(gateway.CT)}, CI {shown(gateway.CI)}"
    if not gateway.CT and not gateway.CI:
        text = "none since the meter was powered up"
        to_do = "Start what drives it: it sets charge point and clock once."
        return Line("gateway", State.WARNING, text, to_do, values)
    if wanted is None:
        return Line("gateway", State.OK, f"{found}, until the meter is powered off", "", values)
    if wanted == (gateway.CT, gateway.CI):
        return Line("gateway", State.OK, f"{found}, as configured", "", values)
    text = f"{found}, but the configuration has CT {shown(wanted[0])}, CI {shown(wanted[1])}"
    to_do = "Receipts name the wrong charge point. The meter takes another once it was powered off and on."
    return Line("gateway", State.FAILED, text, to_do, values)


def _key(evidence: Evidence, _: Settings | None) -> Line:
    key, answer = evidence.key, evidence.public_key
    if key is None or isinstance(key, Exception):
        text = "not asked" if key is None else shown(getattr(key, "brief", key))
        to_do = "Receipts of this meter cannot be checked. Take the key from its type plate, and tell its manufacturer."
        values = {} if answer is None else {"SA": answer.SA, "PK": answer.PK}
        return Line("key", State.FAILED, text, to_do, values)
    values = {"SA": key.SA, "PK": key.PK, "form": key.form, "der_hex": key.der_hex}
    text = f"{key.form}, a point of secp256r1, {shown(key.SA) or 'no algorithm named'}"
    if key.SA not in ("", _RIGHT_KEY):
        to_do = f"Expected is {_RIGHT_KEY}. See whether the last receipt verifies."
        return Line("key", State.WARNING, text, to_do, values)
    return Line("key", State.OK, text, "", values)


_CHECKS: Final[dict[str, Check]] = {
    "reachable": checks_of_connection.reachable,
    "connections": checks_of_connection.connections,
    "serial": _serial,
    "transaction": _transaction,
    "gateway": _gateway,
    "clock": checks_of_clock.clock,
    "errors": checks_of_values.errors,
    "status": checks_of_values.status,
    "key": _key,
    "reading": checks_of_values.reading,
    "register": checks_of_values.register,
    "api": checks_of_receipt.api,
    "receipt": checks_of_receipt.receipt,
}
