"""Judges begin and end of a transaction as the transparency software does (`iem_dcr.ocmf.rules`).

A row is judged by its own fields, because that software inherits only ST and RU. If a field is missing for that
software but inherited according to OCMF, the finding is ``left-out``. This distinguishes it from a value that does not
exist.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from iem_dcr.errors import printable
from iem_dcr.ocmf.receipt import ENDING, text_of
from iem_dcr.ocmf.registers import BLANKS, Register, key_of_register, register_of
from iem_dcr.powermeter import IDENTIFICATION_ERROR_LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from iem_dcr.ocmf.receipt import Receipt, Row
    from iem_dcr.ocmf.rules import Report

_TX_OF = {"begin": frozenset("B"), "end": ENDING}


class _Judged(NamedTuple):
    """A row of a judged register.

    Attributes:
        number: index of its receipt.
        row: the row.
        register: that of its own RI.
        TX: its own TX, or "".
        ST: its own or inherited state, or None.
        RU: its own or inherited unit, or None.
        flag: what TM has after the time, or "".
    """

    number: int
    row: Row
    register: Register
    TX: str
    ST: str | None
    RU: str | None
    flag: str


class Transaction:
    """Judges begin and end.

    Args:
        report: gets the findings.
        receipts: one receipt, or those of begin and end.
    """

    def __init__(self, report: Report, receipts: Sequence[Receipt]) -> None:
        self._report = report
        self._receipts = receipts
        self._rows = [(number, row) for number, receipt in enumerate(receipts) for row in receipt.rows]
        self._judged = _judged_of(self._rows)
        self._ends = {what: [one for one in self._judged if one.TX in TX] for what, TX in _TX_OF.items()}

    def judge(self) -> None:
        """Report the findings about begin, end and the readings between them."""
        if len(self._receipts) > 1:
            self._look_at_parts()
        self._look_at_levels()
        self._look_at_first()
        for what, ones in self._ends.items():
            self._count(what, ones)
        self._look_at_registers()
        for what, ones in self._ends.items():
            for one in ones:
                self._look_at(what, one)
        if self._ends["begin"] and self._ends["end"]:
            self._compare(self._ends["begin"][0], self._ends["end"][-1])
        if len(self._rows) > sum(map(len, self._ends.values())):
            self._look_between()

    def _add(self, code: str, text: str, field: str, one: _Judged) -> None:
        self._report.add(code, text, field, one.row, one.number)

    def _look_at_parts(self) -> None:
        """Check that of two tuples the first has no end and the second has no begin, of any register."""
        for number, row in self._rows:
            TX = row.reading.TX if "TX" in row.written else ""
            if number == 0 and TX in ENDING:
                self._report.add("end-repeated", "the begin's tuple holds an end", "TX", row, number)
            if number == 1 and TX == "B":
                self._report.add("begin-repeated", "the end's tuple holds a begin", "TX", row, number)

    def _look_at_levels(self) -> None:
        for number, receipt in enumerate(self._receipts):
            name = "IS" if receipt.is_old else "IL"
            level = (text_of(receipt.payload.get(name)) or "").strip(BLANKS)
            if level in IDENTIFICATION_ERROR_LEVELS:
                text = f"{name} is {level}: the user was not identified"
                self._report.add("identification-level", text, name, of=number)

    def _look_at_first(self) -> None:
        """Check that the first judged reading has ST and RU, as it cannot inherit them."""
        for one in self._judged[:1]:
            for name, code in (("ST", "status-missing"), ("RU", "unit-missing")):
                is_there = one.row.written.get(name) is not None
                if not is_there and not self._is_left_out(name, one.row, one.number, "first reading"):
                    self._add(code, f"{name} is missing", name, one)

    def _is_left_out(self, name: str, row: Row, number: int, what: str) -> bool:
        """Report a field that only this reader inherits. Return whether it is inherited."""
        inherited = row.time_text if name == "TM" else getattr(row.reading, name)
        if inherited in ("", None):
            return False
        text = f"{name} of the {what} is omitted, and other readers do not inherit it"
        self._report.add("left-out", text, name, row, number)
        return True

    def _count(self, what: str, ones: list[_Judged]) -> None:
        seen: set[object] = set()
        for one in ones:
            which = one.number, one.register.groups  # one in the other tuple is already reported
            if which in seen:
                self._add(f"{what}-repeated", f"a further {what} of {quoted(one.row.reading.RI)}", "TX", one)
            seen.add(which)
        if ones:
            return
        for number, row in self._rows:
            omitted = [name for name in ("TX", "RI") if row.written.get(name) is None]
            is_one = row.reading.TX in _TX_OF[what]
            if is_one and any(self._is_left_out(name, row, number, what) for name in omitted):
                return
        self._report.add(f"{what}-missing", f"no judged register has a {what}", "TX")

    def _look_at_registers(self) -> None:
        both = [one for ones in self._ends.values() for one in ones]
        spellings = {one.register.groups: one.row.reading.RI for one in both}
        if len(spellings) > 1:
            names = printable(", ".join([*spellings.values()][:10]), limit=100)
            self._report.add("registers-mixed", f"begin or end of {len(spellings)} registers: {names}", "RI")
        elif len({one.row.reading.RI for one in both}) > 1:
            text = f"the register is written as {quoted(both[0].row.reading.RI)} and differently"
            self._add("register-spelling", text, "RI", both[-1])

    def _look_at(self, what: str, one: _Judged) -> None:
        """Judge one begin or end."""
        reading, written = one.row.reading, one.row.written
        if written.get("RV") is None and not self._is_left_out("RV", one.row, one.number, what):
            self._add("value-missing", f"the {what} has no value", "RV", one)
        if one.ST not in ("G", None):
            self._add("status-not-good", f"ST of the {what} is {quoted(one.ST)}, not G", "ST", one)
        if "E" in reading.EF:
            self._add("energy-flag", f"EF of the {what} contains E: the energy is not usable", "EF", one)
        if one.row.time_text and reading.TM is None:
            self._add("time-unreadable", f"TM of the {what} is not a time: {quoted(one.row.time_text)}", "TM", one)
        if not one.flag:
            code = "time-flag-missing" if what == "begin" else "time-flag-missing-at-end"
            self._add(code, f"TM of the {what} has no flag for the state of the clock", "TM", one)
        elif one.flag != "S":
            text = f"the clock of the {what} was not synchronised: {quoted(one.flag)}"
            self._add("time-not-synchronised", text, "TM", one)
        if what == "begin" and written.get("TM") is None:
            self._is_left_out("TM", one.row, one.number, what)

    def _compare(self, begin: _Judged, end: _Judged) -> None:
        first, last = begin.row.reading, end.row.reading
        if begin.RU != end.RU and None not in (begin.RU, end.RU):
            self._add("units-mixed", f"the begin is in {quoted(begin.RU)}, the end in {quoted(end.RU)}", "RU", end)
        falls = _is_above(first.RV, last.RV)
        if falls or (first.RU != last.RU and _is_above(first.energy_wh, last.energy_wh)):
            self._add("register-falling", f"the register falls from {first.RV} to {last.RV}", "RV", end)
        if first.TM and last.TM and first.TM.instant > last.TM.instant:
            text = f"the end is earlier than the begin, which is at {first.TM.instant}"
            self._add("time-falling", text, "TM", end)
        if begin.flag == "R" != end.flag:
            self._add("time-relative-mixed", "the begin's time is relative (R), the end's is not", "TM", end)
        if begin.flag != "R" == end.flag:
            self._add("time-relative-at-end", "the end's time is relative (R), the begin's is not", "TM", end)
        counters = [text_of(one.row.written.get("EI")) for one in (begin, end)]
        if counters[1] not in (None, counters[0]) and self._receipts[end.number].is_old:
            self._add("event-counter", "EI differs between begin and end", "EI", end)

    def _look_between(self) -> None:
        judged = {id(one.row) for ones in self._ends.values() for one in ones}
        last: dict[object, tuple[int, Row]] = {}
        for number, row in self._rows:
            reading = row.reading
            if id(row) not in judged:
                if reading.ST not in ("G", ""):
                    self._report.add("status-not-good-between", f"ST is {quoted(reading.ST)}, not G", "ST", row, number)
                if "E" in reading.EF:
                    text = "EF contains E: the energy is not usable"
                    self._report.add("energy-flag-between", text, "EF", row, number)
            register = key_of_register(reading.RI)
            if register in last:
                of, before = last[register]
                if not {id(before), id(row)} <= judged:
                    self._look_at_step(before, row, number, is_across=of != number)
            if reading.RV is not None:
                last[register] = number, row

    def _look_at_step(self, before: Row, row: Row, number: int, *, is_across: bool) -> None:
        first, last = before.reading, row.reading
        if _is_above(first.energy_wh, last.energy_wh):
            code = "register-falling" if is_across and _is_judged(last.RI) else "register-falling-between"
            text = f"register {printable(last.RI, limit=40)} falls from {first.RV} to {last.RV}"
            self._report.add(code, text, "RV", row, number)
        if first.TM and last.TM and first.TM.instant > last.TM.instant:
            text = "earlier than the previous reading of the same register"
            self._report.add("time-falling-between", text, "TM", row, number)


def quoted(value: object) -> str:
    """Return a value of a tuple in quotes, shortened and safe to print."""
    text = str(value)[:60] if isinstance(value, (str, int, Decimal)) else type(value).__name__
    return repr(printable(text, limit=40))


def _judged_of(rows: Iterable[tuple[int, Row]]) -> list[_Judged]:
    """Return the rows of judged registers with the cable's loss subtracted, or without such registers of all judged."""
    found = [(number, row, _own_register(row)) for number, row in rows]
    of_judged = [(number, row, register) for number, row, register in found if register and register.judged]
    compensated = [one for one in of_judged if one[2].compensated]
    judged: list[_Judged] = []
    ST = RU = None
    for number, row, register in compensated or of_judged:
        written = row.written
        ST = ST if written.get("ST") is None else text_of(written["ST"])
        RU = RU if written.get("RU") is None else text_of(written["RU"])
        TX = row.reading.TX if "TX" in written else ""
        judged.append(_Judged(number, row, register, TX, ST, RU, row.time_text.partition(" ")[2].strip()))
    return judged


def _own_register(row: Row) -> Register | None:
    return register_of(row.reading.RI) if row.written.get("RI") is not None else None


def _is_judged(RI: str) -> bool:
    register = register_of(RI)
    return register is not None and register.judged


def _is_above(first: Decimal | None, last: Decimal | None) -> bool:
    return first is not None and last is not None and first > last
