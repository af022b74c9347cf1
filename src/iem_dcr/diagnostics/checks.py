"""Doctor's checks: each is a function that judges the evidence, and says what to do. Pure: no I/O, no clock.

`CHECKS` has all checks in the order of the report, with their names in JSON. `receipt_checks` has those of key and last
receipt. Within a check the first problem that is found decides, so the most important one comes first.
"""

from __future__ import annotations

import statistics
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from iem_dcr.config import PIN, VENDOR_CI
from iem_dcr.diagnostics import receipt_checks
from iem_dcr.diagnostics.report import FAILED, OK, WARNING, Result
from iem_dcr.diagnostics.status import CLOCK_TOLERANCE_S, clock_difference, measured, shown
from iem_dcr.errors import NotUnderstoodError, RefusedError, printable
from iem_dcr.meter_time import FIRST_SANE_YEAR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iem_dcr.device.messages import MeterValue
    from iem_dcr.diagnostics.evidence import Evidence
    from iem_dcr.diagnostics.report import State
    from iem_dcr.diagnostics.snapshot import TimedValue
    from iem_dcr.errors import MeterError
    from iem_dcr.meter_time import MeterTime

_SLOW_S: Final = 1.0
"""A live value is due every second."""
_TOO_SLOW_S: Final = 2.0
"""A driver stops waiting for a live value after this time."""
_CLOCK_WRONG_FROM_S: Final = 60.0
_CLOCK_WATCHED_S: Final = 2.0
"""Time after which a clock that shows whole seconds must have moved."""
_MAX_ZONE_H: Final = 14
_POWER_SHARE: Final = Decimal("0.05")
_POWER_ALLOWANCE_W: Final = Decimal(20)
"""P may differ from U2·I by 5 % and 20 W: they are not measured at the same instant, and P is in whole watts."""
_CURRENT_FLOWS_A: Final = Decimal("0.5")
_COUNTED_FROM_WH: Final = Decimal(3)
"""Energy after which registers must have grown; their resolution is 1 Wh."""
_FLAGS: Final = {"U": "not set since power-up", "I": "set", "S": "synchronised", "R": "relative"}
_SET_CLOCK: Final = "Start the program that drives the meter: it sets the clock before a transaction begins."
_REVERSED: Final = (
    "Energy is counted as export. Unless this charger takes energy back from vehicles, the current's sense lines or "
    "the bus bar are connected the wrong way round."
)


def reachable(evidence: Evidence) -> Result:
    """The meter answers every request fast enough."""
    took, failures = [value.took_s for value in evidence.values], evidence.failures
    asked = len(took) + len(failures)
    values: dict[str, object] = {"asked": asked, "answered": len(took)}
    if not took:
        return Result(FAILED, f"no live value: {shown(failures[0].brief)}", _cause(failures[0]), values)
    median, worst = statistics.median(took), max(took)
    values |= {"median_s": round(median, 4), "worst_s": round(worst, 4)}
    text = f"answers in {median * 1000:.0f} ms (median of {len(took)}), {worst * 1000:.0f} ms at worst"
    if failures:
        lost = f"{len(failures)} of {asked} requests had no answer: {printable(failures[0].brief)}"
        return Result(FAILED, f"{lost}; otherwise it {text}", _cause(failures[0]), values)
    if worst < _SLOW_S:
        return Result(OK, text, "", values)
    to_do = "A live value is due every second. Find out what else reads this meter, and look for a bad cable or switch."
    return Result(FAILED if median >= _TOO_SLOW_S else WARNING, text, to_do, values)


def _cause(error: MeterError) -> str:
    if isinstance(error, NotUnderstoodError):
        return "This firmware is unknown. Please record it with iem-dcr record, and send the recording."
    if isinstance(error, RefusedError):
        return "A meter that is starting may refuse for some seconds: try again."
    return (
        "If the meter serves one connection at a time, another program is using it: find that program. Otherwise look "
        "for a bad cable or switch."
    )


def serial(evidence: Evidence) -> Result:
    """MS matches ``meter_serial`` of the configuration. A pinned serial is in the driver's journal, not here."""
    MS, settings = evidence.last.MS, evidence.settings
    wanted = settings.meter_serial if settings is not None and settings.meter_serial != PIN else ""
    values = {"MS": MS, "wanted": wanted or None}
    others = {timed.value.MS for timed in evidence.values} - {MS}
    if others:
        text = f"two meters answer at this address: {shown(MS)} and {shown(others.pop())}"
        return Result(FAILED, text, "Give each an address of its own.", values)
    if wanted and wanted != MS:
        to_do = "This is another meter. Check ip_address. If the meter was replaced, set meter_serial."
        return Result(FAILED, f"{shown(MS)}, but the configuration wants {shown(wanted)}", to_do, values)
    return Result(OK if MS else WARNING, shown(MS) or "the meter gives no serial number", "", values)


def transaction(evidence: Evidence) -> Result:
    """Whether a transaction is running."""
    return Result(OK, "one is running" if evidence.last.XT else "none is running", "", {"XT": evidence.last.XT})


def gateway(evidence: Evidence) -> Result:
    """CT and CI match the configuration, and CI is not the default of the vendor's module."""
    held, settings = evidence.gateway, evidence.settings
    if held is None:
        to_do = "Receipts contain the charge point. Power the meter off and on."
        return Result(FAILED, shown(evidence.problems.get("gw", "not asked")), to_do)
    wanted = (None, None) if settings is None else (settings.CT, settings.CI)
    values = {"CT": held.CT, "CI": held.CI, "wanted_CT": wanted[0], "wanted_CI": wanted[1]}
    found = f"CT {shown(held.CT)}, CI {shown(held.CI)}" if held.is_set else "none since the meter was powered up"
    if problem := vendor_ci_problem(evidence):
        return Result(FAILED, found, problem, values)
    if not held.is_set:
        to_do = "Start the program that drives the meter: it sets charge point and clock once."
        return Result(WARNING, found, to_do, values)
    if settings is None or wanted == (held.CT, held.CI):
        known = "until the meter is powered off" if settings is None else "as configured"
        return Result(OK, f"{found}, {known}", "", values)
    text = f"{found}, but the configuration has CT {shown(wanted[0])}, CI {shown(wanted[1])}"
    to_do = "Receipts name the wrong charge point. The meter accepts another one only after it was powered off and on."
    return Result(FAILED, text, to_do, values)


def vendor_ci_problem(evidence: Evidence) -> str:
    """Return what follows if the vendor's default of CI is frozen in the meter or configured; "" if it is not."""
    held = "" if evidence.gateway is None else evidence.gateway.CI
    default = f"CI {VENDOR_CI}, the default of the vendor's module,"
    signed = "and every receipt is signed for it. Set CI to the evse_id of EvseManager"
    if held == VENDOR_CI:
        return (
            f"{default} is frozen in this meter until its power is switched off and on, {signed}, then switch the "
            "meter's power off and on."
        )
    if evidence.settings is not None and evidence.settings.CI == VENDOR_CI:
        when = "after the meter's next power cycle" if held else "the next time it is started"
        return f"{default} is configured: the driver freezes it into this meter {when}, {signed} first."
    return ""


def clock(evidence: Evidence) -> Result:
    """The meter's clock: its difference from this host's, whether it moves, its sync flag and its zone."""
    last = evidence.values[-1]
    time = last.value.TM
    if time is None or last.clock_offset is None:
        return Result(WARNING, "its time cannot be read: it has not been set since power-up", _SET_CLOCK)
    offset_s = last.clock_offset.total_seconds()
    flag = f"{time.sync}, {_FLAGS[time.sync]}" if time.sync else "none"
    text = f"{clock_difference(last.clock_offset)}; sync flag {flag}"
    values: dict[str, object] = {
        "ahead_s": round(offset_s, 3),
        "sync": time.sync or None,
        "TM": time.instant.isoformat(timespec="seconds"),
    }
    for state, problem, to_do in _clock_problems(evidence, last, time, offset_s):
        return Result(state, f"{text}: {problem}", to_do, values)
    return Result(OK, text, "", values)


def _clock_problems(
    evidence: Evidence, last: TimedValue, time: MeterTime, offset_s: float
) -> Iterator[tuple[State, str, str]]:
    first = evidence.values[0]
    if last.asked_s - first.asked_s >= _CLOCK_WATCHED_S and time == first.value.TM:
        yield FAILED, "it stands still", "Power the meter off and on. If it still stands still, it is defective."
    if last.read_at.year < FIRST_SANE_YEAR:
        yield WARNING, f"this host's clock shows {last.read_at.year}", "Set this host's clock and run this again."
    if abs(offset_s) > CLOCK_TOLERANCE_S:
        yield _clock_offset_problem(time, offset_s)
    if time.sync == "U":
        yield WARNING, "it is right only by chance", _SET_CLOCK
    if time.sync == "R":
        yield WARNING, "it is relative to an unknown start", "Receipts with such a time may be refused."
    if not time.sync:
        yield WARNING, "it has no flag", "The transparency software refuses a receipt whose begin has no flag."
    if evidence.settings is not None:
        wanted = evidence.settings.zone().local(last.read_at)
        if time.instant.utcoffset() != wanted.utcoffset():
            problem = f"its offset from UTC is {time.instant:%z}, but the configuration has {wanted:%z} now"
            yield WARNING, problem, "The driver sets the zone with the clock: check that it uses this file."


def _clock_offset_problem(time: MeterTime, offset_s: float) -> tuple[State, str, str]:
    if time.instant.year < FIRST_SANE_YEAR or time.sync == "U":
        return WARNING, f"it shows {time.instant:%Y-%m-%d %H:%M}", _SET_CLOCK
    hours = round(offset_s / 3600)
    if hours and abs(hours) <= _MAX_ZONE_H and abs(offset_s - hours * 3600) <= CLOCK_TOLERANCE_S:
        problem = f"that is {abs(hours)} h to the second: a wrong time zone or summer time, not a wrong clock"
        to_do = (
            "The program that sets the clock writes a wrong offset from UTC. Set timezone and timezone_handle_DST, "
            "preferably to an IANA name such as Europe/Berlin. Also check this host's zone and time (timedatectl)."
        )
        return FAILED, problem, to_do
    to_do = "Check this host's clock (timedatectl), and that the program that drives the meter is running."
    return FAILED if abs(offset_s) > _CLOCK_WRONG_FROM_S else WARNING, "it is wrong", to_do


def errors(evidence: Evidence) -> Result:
    """Every word of XC is zero."""
    XC, has_error = evidence.last.XC, evidence.last.has_error
    values = {"XC": XC, "healthy": None if has_error is None else not has_error}
    if has_error is None:
        to_do = "Transactions work, but an error of the meter cannot be seen. Please record this firmware."
        return Result(WARNING, f"XC cannot be read: {shown(XC) or 'none'}", to_do, values)
    if not has_error:
        return Result(OK, f"XC {shown(XC)}", "", values)
    to_do = (
        "The meter is in error and must not be used for charging. Power it off and on. If the error stays, report XC "
        "and XS to its manufacturer."
    )
    return Result(FAILED, f"XC {shown(XC)}: a word is not zero", to_do, values)


def status(evidence: Evidence) -> Result:
    """ST and EF; XS is only shown."""
    value = evidence.last
    values = {"ST": value.ST, "EF": value.EF, "XS": value.XS}
    text = ", ".join(f"{key} {shown(word) or 'none'}" for key, word in values.items())
    refused = "the transparency software refuses a receipt signed now."
    if "E" in value.EF:
        return Result(FAILED, text, f"EF has E: energy is not reliable, and {refused}", values)
    if value.ST not in ("G", ""):
        return Result(FAILED, text, f"ST is not G, good: {refused}", values)
    if "t" in value.EF:
        return Result(WARNING, text, "EF has t: the time is not reliable until the clock is set.", values)
    return Result(WARNING, text, "This flag is not known.", values) if value.EF else Result(OK, text, "", values)


def reading(evidence: Evidence) -> Result:
    """U2·I agrees with P, and the current has the right direction."""
    value = evidence.last
    text = f"{measured(value.U2, 'V')} * {measured(value.I, 'A')}, P {measured(value.P, 'W', 0)}"
    if value.U2 is None or value.I is None or value.P is None:
        to_do = "Missing values are not published. The bill does not depend on them."
        return Result(WARNING, f"{text}: not all values can be read", to_do)
    values = {"U2": float(value.U2), "I": float(value.I), "P": float(value.P)}
    disagreeing = sum(not _power_agrees(timed.value) for timed in evidence.values)
    if disagreeing == len(evidence.values):
        product_w = value.U2 * value.I
        if product_w and _power_agrees(value, sign=-1):
            to_do = "Voltage or current is connected the wrong way round."
            return Result(FAILED, f"{text}: P has the opposite sign", to_do, values)
        to_do = "Check the sense lines of the voltage and the shunt's connection."
        return Result(FAILED, f"{text}: U2·I is {product_w:.0f} W", to_do, values)
    if value.U2 < -_POWER_ALLOWANCE_W:
        to_do = "The voltage's sense lines are connected the wrong way round."
        return Result(FAILED, f"{text}: the voltage is negative", to_do, values)
    if value.I < -_CURRENT_FLOWS_A or value.P < -_POWER_ALLOWANCE_W:
        return Result(WARNING, f"{text}: the current flows backwards", _REVERSED, values)
    if disagreeing:
        text += f"; {disagreeing} of {len(evidence.values)} readings were taken while the load changed"
    return Result(OK, text, "", values)


def _power_agrees(value: MeterValue, sign: int = 1) -> bool:
    """Whether P is U2·I, or its negative with sign -1. True if one of them is missing."""
    if value.U2 is None or value.I is None or value.P is None:
        return True
    product_w = sign * value.U2 * value.I
    return abs(product_w - value.P) <= _POWER_SHARE * max(abs(product_w), abs(value.P)) + _POWER_ALLOWANCE_W


def register(evidence: Evidence) -> Result:
    """Over some seconds the registers do not fall, and count the energy that flows."""
    first, last = evidence.values[0], evidence.values[-1]
    watched_s = last.asked_s - first.asked_s
    value = last.value
    exported = "" if value.export_wh is None else f", export {value.export_wh / 1000:.3f} kWh"
    text = f"import {value.import_wh / 1000:.3f} kWh{exported}, over {watched_s:.1f} s"
    values: dict[str, object] = {
        "import_wh": float(value.import_wh),
        "export_wh": None if value.export_wh is None else float(value.export_wh),
        "import_grew_wh": float(value.import_wh - first.value.import_wh),
        "watched_s": round(watched_s, 3),
    }
    growths = [wh for before, after in pairwise(evidence.values) for wh in _growths_wh(before.value, after.value)]
    if any(growth < 0 for growth in growths):
        to_do = "A meter's register never falls: the meter is defective, or another meter answered in between."
        return Result(FAILED, f"{text}: a register fell", to_do, values)
    due_wh = min(abs(timed.value.P or Decimal(0)) for timed in evidence.values) * Decimal(watched_s) / 3600
    if due_wh >= _COUNTED_FROM_WH and not any(growths):
        to_do = "The energy that flows is not counted: the meter is defective, or its values stand still."
        return Result(FAILED, f"{text}: none of about {due_wh:.0f} Wh was counted", to_do, values)
    if value.export_wh is not None and value.export_wh > value.import_wh:
        return Result(WARNING, f"{text}: more was exported than imported", _REVERSED, values)
    return Result(OK, text, "", values)


def _growths_wh(before: MeterValue, after: MeterValue) -> list[Decimal]:
    growths = [after.import_wh - before.import_wh]
    if before.export_wh is not None and after.export_wh is not None:
        growths.append(after.export_wh - before.export_wh)
    return growths


class Check(NamedTuple):
    """A check: its name for people, the function that judges, and whether that needs a live value."""

    title: str
    judge: Callable[[Evidence], Result]
    needs_value: bool = True

    def result(self, evidence: Evidence) -> Result:
        """Return the result of the check."""
        if self.needs_value and not evidence.values:
            return Result(FAILED, "not known, because there is no live value")
        return self.judge(evidence)


CHECKS: Final = {
    "reachable": Check("Reachable", reachable, needs_value=False),
    "serial": Check("Serial number", serial),
    "transaction": Check("Transaction", transaction),
    "gateway": Check("Charge point", gateway, needs_value=False),
    "clock": Check("Clock", clock),
    "errors": Check("Errors", errors),
    "status": Check("Status", status),
    "key": Check("Public key", receipt_checks.key, needs_value=False),
    "reading": Check("Reading", reading),
    "register": Check("Registers", register),
    "api": Check("API", receipt_checks.api, needs_value=False),
    "receipt": Check("Last receipt", receipt_checks.receipt, needs_value=False),
}
"""Every check by its name in JSON, in the order of the report."""
