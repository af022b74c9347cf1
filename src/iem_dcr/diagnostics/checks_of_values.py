"""The checks of a meter's live values: its words about itself, what it measures, and its registers."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from iem_dcr.diagnostics.report import Line, State
from iem_dcr.diagnostics.status import measured, shown

if TYPE_CHECKING:
    from iem_dcr.config import Settings
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.diagnostics.evidence import Evidence

SHARE: Final = Decimal("0.05")
ALLOWANCE_W: Final = Decimal(20)
"""P may differ from U2·I by 5 % and so many watts: they are not of the same instant, and P comes in whole watts."""
FLOWS_A: Final = Decimal("0.5")
COUNTS_FROM_WH: Final = Decimal(3)
"""Registers have a resolution of 1 Wh: from so much on they must have moved."""
_NO_VALUE: Final = "not seen, because there is no live value"
_REVERSED: Final = (
    "Export counts. Unless this charger takes energy back from vehicles, the current's sense lines or the bus bar are "
    "the wrong way round."
)


def errors(evidence: Evidence, _: Settings | None) -> Line:
    """Judge XC."""
    value = evidence.last
    if value is None:
        return Line("errors", State.FAILED, _NO_VALUE)
    values = {"XC": value.XC, "healthy": None if value.has_error is None else not value.has_error}
    if value.has_error is None:
        to_do = "Transactions work; whether the meter is in error cannot be seen. Please record this firmware."
        return Line("errors", State.WARNING, f"XC cannot be read: {shown(value.XC) or 'none'}", to_do, values)
    if not value.has_error:
        return Line("errors", State.OK, f"XC {shown(value.XC)}", "", values)
    to_do = (
        "The meter is in error, and must not charge. Power it off and on; if it stays, give its manufacturer XC and XS."
    )
    return Line("errors", State.FAILED, f"XC {shown(value.XC)}: a word is not zero", to_do, values)


def status(evidence: Evidence, _: Settings | None) -> Line:
    """Judge ST and EF; XS is shown."""
    value = evidence.last
    if value is None:
        return Line("status", State.FAILED, _NO_VALUE)
    values = {"ST": value.ST, "EF": value.EF, "XS": value.XS}
    text = f"ST {shown(value.ST) or 'none'}, EF {shown(value.EF) or 'none'}, XS {shown(value.XS) or 'none'}"
    if "E" in value.EF:
        to_do = "EF has E: energy is not reliable, and a receipt signed now is refused by the transparency software."
        return Line("status", State.FAILED, text, to_do, values)
    if value.ST not in ("G", ""):
        to_do = "ST is not G, good: a receipt signed now is refused by the transparency software."
        return Line("status", State.FAILED, text, to_do, values)
    if value.EF:
        to_do = "EF has t: the time is not reliable. That ends when the clock is set."
        return Line("status", State.WARNING, text, to_do if "t" in value.EF else "This flag is not known.", values)
    return Line("status", State.OK, text, "", values)


def reading(evidence: Evidence, _: Settings | None) -> Line:
    """Judge U2·I against P, and the direction of the current."""
    value = evidence.last
    if value is None:
        return Line("reading", State.FAILED, _NO_VALUE)
    text = f"{measured(value.U2, 'V')} * {measured(value.I, 'A')}, P {measured(value.P, 'W', 0)}"
    if value.U2 is None or value.I is None or value.P is None:
        to_do = "What the meter does not give is not published; the bill does not depend on it."
        return Line("reading", State.WARNING, f"{text}: not all of it can be read", to_do)
    values: dict[str, object] = {"U2": float(value.U2), "I": float(value.I), "P": float(value.P)}
    unlike = [timed.value for timed in evidence.values if not _is_alike(timed.value)]
    if len(unlike) == len(evidence.values):
        product = value.U2 * value.I
        if product and abs(product + value.P) <= _tolerance_w(product, value.P):
            what, to_do = "P has the other sign", "Voltage or current is connected the wrong way round."
        else:
            what, to_do = f"U2·I is {product:.0f} W", "Check the sense lines of the voltage and the shunt's connection."
        return Line("reading", State.FAILED, f"{text}: {what}", to_do, values)
    if value.U2 < -ALLOWANCE_W:
        to_do = "The voltage's sense lines are the wrong way round."
        return Line("reading", State.FAILED, f"{text}: the voltage is negative", to_do, values)
    if value.I < -FLOWS_A or value.P < -ALLOWANCE_W:
        return Line("reading", State.WARNING, f"{text}: it flows backwards", _REVERSED, values)
    if unlike:
        text += f"; {len(unlike)} of {len(evidence.values)} readings were of a moment when it changed"
    return Line("reading", State.OK, text, "", values)


def register(evidence: Evidence, _: Settings | None) -> Line:
    """Judge the registers over the time they were watched: none falls, and what flows is counted."""
    if not evidence.values:
        return Line("register", State.FAILED, _NO_VALUE)
    first, last = evidence.values[0], evidence.values[-1]
    watched_s = last.read_s - first.read_s
    value = last.value
    exported = "" if value.export_wh is None else f", export {_kwh(value.export_wh)}"
    text = f"import {_kwh(value.import_wh)}{exported}, over {watched_s:.1f} s"
    values: dict[str, object] = {
        "import_wh": float(value.import_wh),
        "export_wh": None if value.export_wh is None else float(value.export_wh),
        "import_grew_wh": float(value.import_wh - first.value.import_wh),
        "watched_s": round(watched_s, 3),
    }
    if any(
        _falls(before.value, after.value) for before, after in zip(evidence.values, evidence.values[1:], strict=False)
    ):
        to_do = "A register of a meter never falls: it is defective, or another meter answered in between."
        return Line("register", State.FAILED, f"{text}: it fell", to_do, values)
    grew_wh = _grown_wh(first.value, value)
    due_wh = min(abs(timed.value.P or Decimal(0)) for timed in evidence.values) * Decimal(watched_s) / 3600
    if grew_wh == 0 and due_wh >= COUNTS_FROM_WH:
        to_do = "What flows is not counted: the meter is defective, or its values stand still."
        return Line("register", State.FAILED, f"{text}: nothing was counted of about {due_wh:.0f} Wh", to_do, values)
    if value.export_wh is not None and value.export_wh > value.import_wh:
        return Line("register", State.WARNING, f"{text}: more was exported than imported", _REVERSED, values)
    return Line("register", State.OK, text, "", values)


def _is_alike(value: MeterValue) -> bool:
    if value.U2 is None or value.I is None or value.P is None:
        return True
    product = value.U2 * value.I
    return abs(product - value.P) <= _tolerance_w(product, value.P)


def _tolerance_w(product: Decimal, power: Decimal) -> Decimal:
    return SHARE * max(abs(product), abs(power)) + ALLOWANCE_W


def _falls(before: MeterValue, after: MeterValue) -> bool:
    if after.import_wh < before.import_wh:
        return True
    return before.export_wh is not None and after.export_wh is not None and after.export_wh < before.export_wh


def _grown_wh(first: MeterValue, last: MeterValue) -> Decimal:
    grown = last.import_wh - first.import_wh
    if first.export_wh is not None and last.export_wh is not None:
        grown += last.export_wh - first.export_wh
    return grown


def _kwh(energy_wh: Decimal) -> str:
    return f"{energy_wh / 1000:.3f} kWh"
