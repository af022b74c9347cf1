"""What /metervalue shows, and how it differs from the state of the meter.

A live value may be an old snapshot, show a begin or an end late, or show XT false in a running transaction. It may
also be frozen, omit fields, or have them in another type. The meter takes a snapshot every ``value_age_s`` seconds,
independent of requests. If ``value_age_s`` is 0, it measures for each request.
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


class LiveValues:
    """The live values of one meter."""

    def __init__(self, state: MeterState, now_s: float) -> None:
        self._state = state
        self._kept: dict[str, Any] | None = None
        self._running_readings = 0
        self.power_up(now_s)

    def power_up(self, now_s: float) -> None:
        """Discard the snapshot, unless the values are frozen."""
        self._kept = self._kept if self._state.options.frozen else None
        self._taken_s = now_s
        self._first_answer_s: float | None = None

    def advance(self, now_s: float) -> None:
        """Take the snapshot that is due. The caller changes the state only after this call."""
        options = self._state.options
        if (age_s := options.value_age_s) > 0 and (due_s := math.floor(now_s / age_s) * age_s) > self._taken_s:
            self._taken_s = due_s
            self._kept = self._kept if options.frozen else _measured(self._state, due_s)

    def answer(self, now_s: float) -> dict[str, object]:
        """Return the answer of GET /metervalue, as JSON types."""
        options = self._state.options
        if self._first_answer_s is None:
            self._first_answer_s = now_s
        is_kept = options.frozen or options.value_age_s > 0
        measured = (self._kept if is_kept else None) or _measured(self._state, now_s)
        self._kept = measured if is_kept else None
        shown = dict(measured)
        runs = shown["XT"] and not self._is_falsely_false(now_s - self._first_answer_s)
        shown["XT"] = {"bool": runs, "number": int(runs), "text": str(runs).lower()}[options.xt_type]
        if shown["TM"] is None and "TM" not in options.null:
            del shown["TM"]
        shown |= dict.fromkeys(options.null)
        return {name: value for name, value in shown.items() if name not in options.missing}

    def _is_falsely_false(self, since_first_answer_s: float) -> bool:
        """Return whether this answer shows XT false although a transaction runs."""
        self._running_readings += 1
        kind = self._state.options.false_xt
        is_fifth = self._running_readings % FALSE_XT_EVERY == 0
        is_after_cut = self._state.survived_cut and since_first_answer_s < FALSE_XT_AFTER_CUT_S
        return (is_fifth and kind in ("single", "both")) or (is_after_cut and kind in ("after-power-cut", "both"))


def _measured(state: MeterState, at_s: float) -> dict[str, Any]:
    """Return the live value at ``at_s``, since when the state has not changed. XT is a bool; TM is None if omitted."""
    options = state.options
    current_a, voltage_v = state.energy.at(at_s)
    total, transaction = state.energy.registers(at_s), state.transaction_registers(at_s)
    begun_s = state.opened.begun_s + options.begin_shows_after_s if state.opened else math.inf
    ended_s = state.ended_s + options.end_shows_after_s if state.ended_s is not None else -math.inf
    rows = {
        TOTAL_IMPORT: ("R", total.import_wh),
        TOTAL_EXPORT: ("R", total.export_wh),
        TRANSACTION_IMPORT: ("W", transaction.import_wh),
        TRANSACTION_EXPORT: ("W", transaction.export_wh),
    }

    def row(code: str) -> dict[str, object]:
        letter, energy_wh = rows[code]
        text = kwh_text(energy_wh)
        value = text if options.register_type == "text" else float(text)
        return {f"{letter}V": value, f"{letter}I": code, f"{letter}U": "kWh", f"{letter}T": "DC"}

    def number(value: float, decimals: int = 3) -> float | str:
        rounded = round(value, decimals)
        written = int(rounded) if rounded == int(rounded) else rounded
        return str(written) if options.number_type == "text" else written

    return {
        "MS": options.MS,
        "TM": state.time_text(at_s),
        "EF": state.error_flags,
        "ST": options.ST,
        "XT": begun_s <= at_s or at_s < ended_s,
        "RD": [row(code) for code in options.RD_rows],
        "U1": number(options.U1),
        "U2": number(voltage_v),
        "U3": number(0),
        "U4": number(0),
        "I": number(current_a),
        "P": number(current_a * voltage_v, options.power_decimals),
        "XS": options.XS,
        "XC": options.XC if options.xc_blanks else options.XC.replace(" ", ""),
    }
