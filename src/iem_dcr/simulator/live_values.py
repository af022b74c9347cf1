"""What /metervalue shows, and how far it can be believed.

The state of the meter is one thing, a live value another. It may be a snapshot of some moment ago, show a begin or an
end late, show XT false once in a running transaction, stand still, leave fields out or write them in another type.
Snapshots are taken on a clock of the meter's own, every ``value_age_s``; with 0 each answer is measured when asked.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.simulator.energy import kwh_text
from iem_dcr.simulator.options import TOTAL_EXPORT, TOTAL_IMPORT, TRANSACTION_EXPORT, TRANSACTION_IMPORT

if TYPE_CHECKING:
    from iem_dcr.simulator.state import MeterState

FALSE_XT_EVERY: Final = 5
FALSE_XT_AFTER_CUT_S: Final = 4.0
_NUMBERS: Final = ("U1", "U2", "U3", "U4", "I", "P")


class LiveValues:
    """The live values of one meter."""

    def __init__(self, now_s: float) -> None:
        self._snapshot: dict[str, Any] | None = None
        self._taken_s = now_s
        self._frozen: dict[str, Any] | None = None
        self._running_readings = 0
        self._first_answer_s: float | None = None

    def advance(self, state: MeterState, now_s: float) -> None:
        """Take the snapshot that is due. To be called before anything changes in the state."""
        age_s = state.options.value_age_s
        if age_s > 0 and (due_s := math.floor(now_s / age_s) * age_s) > self._taken_s:
            self._snapshot, self._taken_s = _measured(state, due_s), due_s

    def power_up(self, now_s: float) -> None:
        """Forget what was measured before the power cut."""
        self._snapshot, self._taken_s, self._first_answer_s = None, now_s, None

    def answer(self, state: MeterState, now_s: float) -> dict[str, object]:
        """Return the answer of GET /metervalue, as JSON types."""
        options = state.options
        if self._first_answer_s is None:
            self._first_answer_s = now_s
        measured = self._snapshot if options.value_age_s > 0 and self._snapshot else _measured(state, now_s)
        if options.value_age_s > 0:
            self._snapshot = measured
        self._frozen = (self._frozen or measured) if options.frozen else None
        shown = dict(self._frozen or measured)
        if shown["XT"]:
            shown["XT"] = self._shows_running(state, now_s)
        return _in_its_types(shown, state)

    def _shows_running(self, state: MeterState, now_s: float) -> bool:
        self._running_readings += 1
        false_xt = state.options.false_xt
        if false_xt in ("single", "both") and self._running_readings % FALSE_XT_EVERY == 0:
            return False
        since_cut_s = now_s - (self._first_answer_s or 0.0)
        is_after_cut = state.survived_cut and since_cut_s < FALSE_XT_AFTER_CUT_S
        return not (is_after_cut and false_xt in ("after-power-cut", "both"))


def _measured(state: MeterState, at_s: float) -> dict[str, Any]:
    """Return a live value as it is at a moment since which nothing has changed; energies in Wh, XT as bool."""
    options = state.options
    current_a, voltage_v = state.energy.at(at_s)
    total, transaction = state.energy.registers(at_s), state.transaction_registers(at_s)
    rows = {
        TOTAL_IMPORT: ("R", total.import_wh),
        TOTAL_EXPORT: ("R", total.export_wh),
        TRANSACTION_IMPORT: ("W", transaction.import_wh),
        TRANSACTION_EXPORT: ("W", transaction.export_wh),
    }
    return {
        "MS": options.MS,
        "TM": state.time_text(at_s),
        "EF": state.error_flags,
        "ST": options.ST,
        "XT": _is_shown_as_running(state, at_s),
        "RD": [(code, *rows[code]) for code in options.RD_rows],
        "U1": _number(options.U1, 3),
        "U2": _number(voltage_v, 3),
        "U3": 0,
        "U4": 0,
        "I": _number(current_a, 3),
        "P": _number(current_a * voltage_v, options.power_decimals),
        "XS": options.XS,
        "XC": options.XC,
    }


def _is_shown_as_running(state: MeterState, at_s: float) -> bool:
    options = state.options
    if state.opened is not None and at_s >= state.opened.begun_s + options.begin_shows_after_s:
        return True
    return state.ended_s is not None and at_s < state.ended_s + options.end_shows_after_s


def _in_its_types(shown: dict[str, Any], state: MeterState) -> dict[str, object]:
    """Write a value as the options have it: types, fields that are null, fields that are missing."""
    options = state.options
    shown["RD"] = [_row(*row, as_text=options.register_type == "text") for row in shown["RD"]]
    if options.xt_type != "bool":
        shown["XT"] = int(shown["XT"]) if options.xt_type == "number" else str(shown["XT"]).lower()
    if options.number_type == "text":
        shown |= {name: str(shown[name]) for name in _NUMBERS}
    if not options.xc_blanks:
        shown["XC"] = shown["XC"].replace(" ", "")
    shown |= dict.fromkeys(options.null)
    left_out = (*options.missing, *(("TM",) if shown["TM"] is None and "TM" not in options.null else ()))
    return {name: value for name, value in shown.items() if name not in left_out}


def _row(code: str, letter: str, energy_wh: Any, *, as_text: bool) -> dict[str, object]:  # noqa: ANN401  a Decimal
    value = kwh_text(energy_wh) if as_text else float(kwh_text(energy_wh))
    return {f"{letter}V": value, f"{letter}I": code, f"{letter}U": "kWh", f"{letter}T": "DC"}


def _number(value: float, decimals: int) -> float:
    rounded = round(value, decimals)
    return int(rounded) if rounded == int(rounded) else rounded
