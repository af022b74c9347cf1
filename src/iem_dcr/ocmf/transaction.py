"""Judges begin and end of a transaction as the transparency software does (`iem_dcr.ocmf.rules`).

A row is judged by its own fields, because that software inherits only ST and RU. If a field is missing for that
software but inherited according to OCMF, the finding is ``left-out``. This distinguishes it from a value that does not
exist.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from iem_dcr.errors import printable
from iem_dcr.ocmf.receipt import ENDING, Row, ends_of
from iem_dcr.ocmf.registers import BLANKS, Register, key_of_register, register_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from iem_dcr.ocmf.receipt import Receipt
    from iem_dcr.ocmf.rules import Report

ERROR_LEVELS = frozenset({"MISMATCH", "INVALID", "OUTDATED", "UNKNOWN"})
"""Values of IL for a user who was not identified."""

WITHOUT_LEVEL = 0.5
"""Versions (FV) below this one have the level in IS, and count events in EI."""

_DOUBLE = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,9})?[dDfF]?", re.ASCII)
_TIME = re.compile(
    r"(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T(\d\d):([0-5]\d):([0-5]\d),(\d{3})([+-])(\d\d)([0-5]\d)", re.ASCII
)
_LONGEST_NUMBER = 400
_WIDEST_OFFSET = timedelta(hours=18)
_WH = {"wh": 1000.0}


class _Judged(NamedTuple):
    """A row of a judged register, with ST and RU as the transparency software inherits them."""

    number: int
    row: Row
    register: Register
    TX: str
    ST: str | None
    RU: str | None
    flag: str | None


class Transaction:
    """Judges begin and end.

    Args:
        report: gets the findings.
        receipts: one receipt, or those of begin and end.
    """

    def __init__(self, report: Report, receipts: Sequence[Receipt]) -> None:
        self._report = report
        self._receipts = receipts
        self._is_pair = len(receipts) > 1
        self._rows = [(number, row) for number, receipt in enumerate(receipts) for row in receipt.rows]
        self._judged = _judged_of(self._rows)
        self._begins = [one for one in self._judged if one.TX == "B"]
        self._ends = [one for one in self._judged if one.TX in ENDING]

    def judge(self) -> None:
        """Report the findings about begin, end and the readings between them."""
        begins, ends = self._begins, self._ends
        if self._is_pair:
            self._look_at_parts()
        self._look_at_levels()
        self._look_at_first()
        self._count()
        for one in begins:
            self._look_at(one, "begin")
        for one in ends:
            self._look_at(one, "end")
        self._look_at_flags()
        if begins and ends:
            self._compare(begins[0], ends[-1])
        if self._is_pair:
            self._look_across()
        if len(self._rows) > len(begins) + len(ends):
            self._look_between()

    def _add(self, code: str, text: str, field: str, one: _Judged) -> None:
        self._report.add(code, text, field, one.row, one.number)

    def _look_at_parts(self) -> None:
        """Check that of two tuples the first has no end and the second has no begin, of any register."""
        for number, row in self._rows:
            TX = _TX(row.written)
            if number == 0 and TX in ENDING:
                self._report.add("end-repeated", "the begin's tuple holds an end", "TX", row, number)
            if number == 1 and TX == "B":
                self._report.add("begin-repeated", "the end's tuple holds a begin", "TX", row, number)

    def _look_at_levels(self) -> None:
        for number, receipt in enumerate(self._receipts):
            name = "IS" if is_old(receipt) else "IL"
            level = (text_of(receipt.payload.get(name)) or "").strip(BLANKS)
            if level in ERROR_LEVELS:
                text = f"{name} is {level}: the user was not identified"
                self._report.add("identification-level", text, name, of=number)

    def _look_at_first(self) -> None:
        """Check that the first judged reading has ST and RU, as it cannot inherit them."""
        for one in self._judged[:1]:
            for name, code in (("ST", "status-missing"), ("RU", "unit-missing")):
                is_there = one.row.written.get(name) is not None
                if not is_there and not self._is_left_out(name, one.row, one.number, "the first reading"):
                    self._add(code, f"{name} is missing", name, one)

    def _is_left_out(self, name: str, row: Row, number: int, what: str) -> bool:
        """Report a field that only this reader inherits. Return whether it is inherited."""
        inherited = row.time_text if name == "TM" else getattr(row.reading, name)
        if row.written.get(name, "") is None or inherited in ("", None):
            return False
        text = f"{name} of {what} is omitted, and other readers do not inherit it"
        self._report.add("left-out", text, name, row, number)
        return True

    def _count(self) -> None:
        begins, ends = self._begins, self._ends
        if len(begins) == len(ends) == 1 and begins[0].row.written["RI"] == ends[0].row.written["RI"]:
            return
        for code, ones in (("begin", begins), ("end", ends)):
            if not ones:
                self._look_for(code)
            seen: set[object] = set()
            for one in ones:
                which = one.number, one.register.groups  # one in the other tuple is already reported
                if which in seen:
                    self._add(f"{code}-repeated", f"a further {code} of {quoted(one.row.written['RI'])}", "TX", one)
                seen.add(which)
        both = (*begins, *ends)
        spellings = {one.register.groups: str(one.row.written["RI"]) for one in both}
        if len(spellings) > 1:
            names = printable(", ".join([*spellings.values()][:10]), limit=100)
            self._report.add("registers-mixed", f"begin or end of {len(spellings)} registers: {names}", "RI")
        elif len({one.row.written["RI"] for one in both}) > 1:
            text = f"the register is written as {quoted(both[0].row.written['RI'])} and differently"
            self._add("register-spelling", text, "RI", both[-1])

    def _look_for(self, code: str) -> None:
        """Report a begin or end that inherits fields which other readers need, or that does not exist."""
        number_of = {id(row): number for number, row in self._rows}
        is_told = False
        for register in ends_of(row for _, row in self._rows if _is_judged(row.reading.RI)).values():
            for row in register.begins if code == "begin" else register.ends:
                for name in ("TX", "RI", "RV"):
                    if row.written.get(name) is None:
                        is_told |= self._is_left_out(name, row, number_of[id(row)], f"the {code}")
        if not is_told:
            self._report.add(f"{code}-missing", f"no judged register has a {code}", "TX")

    def _look_at(self, one: _Judged, what: str) -> None:
        """Judge one begin or end."""
        reading, written, time_text = one.row.reading, one.row.written, one.row.time_text
        if written.get("RV") is None and not self._is_left_out("RV", one.row, one.number, f"the {what}"):
            self._add("value-missing", f"the {what} has no value", "RV", one)
        if one.ST not in ("G", None):
            self._add("status-not-good", f"ST of the {what} is {quoted(one.ST)}, not G", "ST", one)
        if "E" in reading.EF or "E" in (text_of(written.get("EF")) or ""):
            self._add("energy-flag", f"EF of the {what} contains E: the energy is not usable", "EF", one)
        if time_text and reading.TM is None:
            self._add("time-unreadable", f"TM of the {what} is not a time: {quoted(time_text)}", "TM", one)
        if one.flag not in (None, "S"):
            text = f"the clock of the {what} was not synchronised: {quoted(one.flag)}"
            self._add("time-not-synchronised", text, "TM", one)

    def _look_at_flags(self) -> None:
        for one in self._begins:
            if one.flag is None:
                self._add("time-flag-missing", "TM of the begin has no flag for the state of the clock", "TM", one)
            elif one.row.written.get("TM") is None:
                self._is_left_out("TM", one.row, one.number, "the begin")
        for one in self._ends:
            if one.flag is None:
                text = "TM of the end has no flag for the state of the clock"
                self._add("time-flag-missing-at-end", text, "TM", one)

    def _compare(self, begin: _Judged, end: _Judged) -> None:
        first, last = begin.row.reading, end.row.reading
        if begin.RU != end.RU and None not in (begin.RU, end.RU):
            self._add("units-mixed", f"the begin is in {quoted(begin.RU)}, the end in {quoted(end.RU)}", "RU", end)
        falls = _is_above(_number(begin.row), _number(end.row))
        if falls or (first.RU != last.RU and _is_above(first.energy_wh, last.energy_wh)):
            self._add("register-falling", f"the register falls from {first.RV} to {last.RV}", "RV", end)
        begin_at, end_at = _time_there(begin), _time_there(end)
        if begin_at is not None and end_at is not None:
            if begin_at > end_at:
                self._add("time-falling", f"the end is earlier than the begin, which is at {begin_at}", "TM", end)
        elif first.TM and last.TM and first.TM.instant > last.TM.instant:
            self._add("time-falling-between", "the end is earlier than the begin", "TM", end)
        if begin.flag == "R" != end.flag:
            self._add("time-relative-mixed", "the begin's time is relative (R), the end's is not", "TM", end)
        if begin.flag != "R" == end.flag:
            self._add("time-relative-at-end", "the end's time is relative (R), the begin's is not", "TM", end)
        counter = double_in(end.row.written.get("EI"))
        differs = counter is not None and counter != double_in(begin.row.written.get("EI"))
        if differs and is_old(self._receipts[end.number]):
            self._add("event-counter", "EI differs between begin and end", "EI", end)

    def _look_across(self) -> None:
        """Check that no judged reading of the begin's tuple exceeds one of the end's tuple, in kWh."""
        parts: tuple[list[tuple[float, Row]], ...] = ([], [])
        for number, row in self._rows:
            register = _own_register(row)
            if register is not None and register.judged and register.groups[5] == 0:
                parts[min(number, 1)].append((_kwh(row), row))
        for part, code in zip(parts, ("begin-missing", "end-missing"), strict=True):
            if not part:
                self._report.add(code, "its tuple has no total of a judged register", "RI")
                return
        highest, of_begin = max(parts[0], key=lambda one: one[0])
        lowest, row = min(parts[1], key=lambda one: one[0])
        is_told = len(parts[0]) == len(parts[1]) == 1 and _is_above(_number(of_begin), _number(row))
        if highest > lowest and not is_told:
            text = f"the end's tuple has {lowest:g} kWh, the begin's {highest:g} kWh"
            self._report.add("register-falling", text, "RV", row, 1)

    def _look_between(self) -> None:
        judged_ends = {id(one.row) for one in (*self._begins, *self._ends)}
        last: dict[object, tuple[int, Row]] = {}
        for number, row in self._rows:
            reading = row.reading
            if id(row) not in judged_ends:
                if reading.ST not in ("G", ""):
                    self._report.add("status-not-good-between", f"ST is {quoted(reading.ST)}, not G", "ST", row, number)
                if "E" in reading.EF:
                    text = "EF contains E: the energy is not usable"
                    self._report.add("energy-flag-between", text, "EF", row, number)
            register = key_of_register(reading.RI)
            if register in last:
                of, before = last[register]
                if not {id(before), id(row)} <= judged_ends:
                    self._look_at_step(before, row, number, is_in_one=of == number)
            if reading.RV is not None:
                last[register] = number, row

    def _look_at_step(self, before: Row, row: Row, number: int, *, is_in_one: bool) -> None:
        first, last = before.reading, row.reading
        falls = _is_above(first.energy_wh, last.energy_wh)
        if falls and (is_in_one or not _is_judged(last.RI)):  # readings of two tuples are already judged
            text = f"register {printable(last.RI, limit=40)} falls from {first.RV} to {last.RV}"
            self._report.add("register-falling-between", text, "RV", row, number)
        if first.TM and last.TM and first.TM.instant > last.TM.instant:
            text = "earlier than the previous reading of the same register"
            self._report.add("time-falling-between", text, "TM", row, number)


def _judged_of(rows: Iterable[tuple[int, Row]]) -> list[_Judged]:
    """Return the rows of judged registers with the cable's loss subtracted, or without such registers of all judged."""
    found = []
    for number, row in rows:
        register = _own_register(row)
        if register is not None and register.judged:
            found.append((number, row, register))
    compensated = [one for one in found if one[2].compensated]
    judged: list[_Judged] = []
    ST = RU = None
    for number, row, register in compensated or found:
        own_ST, own_RU = row.written.get("ST"), row.written.get("RU")
        ST = ST if own_ST is None else text_of(own_ST)
        RU = RU if own_RU is None else text_of(own_RU)
        judged.append(_Judged(number, row, register, _TX(row.written), ST, RU, _flag(row.time_text)))
    return judged


def _own_register(row: Row) -> Register | None:
    RI = row.written.get("RI")
    return register_of(RI) if isinstance(RI, str) else None


def _is_judged(RI: str) -> bool:
    register = register_of(RI)
    return register is not None and register.judged


# --- values as the transparency software reads them ---


def text_of(value: object) -> str | None:
    """Return a value as text, as that software does for numbers and booleans too, or None."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, Decimal)) else None


def _TX(written: Mapping[str, object]) -> str:  # noqa: N802  TX is OCMF's name
    TX = written.get("TX")
    return TX.strip(BLANKS) if isinstance(TX, str) else ""


def double_in(value: object) -> float | None:
    """Parse a binary floating-point number as Java does. Return None if the value is not a number."""
    text = None if isinstance(value, bool) else text_of(value)
    return None if text is None or len(text) > _LONGEST_NUMBER else _double(text)


@lru_cache(maxsize=64)
def _double(text: str) -> float | None:
    number = text.strip(BLANKS)
    return float(number.rstrip("dDfF")) if _DOUBLE.fullmatch(number) else None


def _number(row: Row) -> float | None:
    """Return the number of a row without its unit, for a binary comparison."""
    value = row.reading.RV
    return None if value is None or row.written.get("RV") is None else float(value)


def _kwh(row: Row) -> float:
    value, RU = _number(row), text_of(row.written.get("RU"))
    return (value or 0.0) / _WH.get((RU or "").strip(BLANKS).lower(), 1.0)


def _flag(time_text: str) -> str | None:
    """Return what that software reads as the flag: the text after the first space of TM."""
    if " " not in (text := time_text.rstrip(" ")):
        return None
    return text.split(" ", 2)[1]


def _time_there(one: _Judged) -> datetime | None:
    """Parse TM as that software does: milliseconds after a comma, an offset without a colon, and any flag. 24:00:00,000
    is the beginning of the next day. A day past the end of its month is the last day of the month.
    """
    TM, read = one.row.written.get("TM"), one.row.reading.TM
    if not isinstance(TM, str) or one.flag is None:
        return None
    if read is not None and _is_plain_time(TM):  # the usual case, because the rest takes long
        return read.instant
    match = _TIME.fullmatch(TM.split(" ")[0])
    if match is None:
        return None
    year, month, day, hour, minute, second, ms = (int(group) for group in match.groups()[:7])
    offset = timedelta(hours=int(match[9]), minutes=int(match[10]))
    next_day = hour == 24 and minute == second == ms == 0
    if year == 0 or offset > _WIDEST_OFFSET or (hour > 23 and not next_day):
        return None
    day = min(day, monthrange(year, month)[1])
    zone = timezone(-offset if match[8] == "-" else offset)
    try:
        time = datetime(year, month, day, 0 if next_day else hour, minute, second, 1000 * ms, tzinfo=zone)
        return time + timedelta(days=1) if next_day else time
    except OverflowError:
        return None


def _is_plain_time(TM: str) -> bool:
    """Return whether that software reads the same time: it requires its own form and an offset below 18 h."""
    return TM[19] == "," and TM[20:23].isdigit() and TM[23] in "+-" and TM[24:26] < "18" and TM[28:29] == " "


def _is_above(first: float | Decimal | None, last: float | Decimal | None) -> bool:
    return first is not None and last is not None and first > last


def is_old(receipt: Receipt) -> bool:
    """Return whether a receipt has a version of OCMF before 0.5."""
    version = double_in(receipt.payload.get("FV"))
    return version is not None and version < WITHOUT_LEVEL


def quoted(value: object) -> str:
    """Return a value of a tuple in quotes, shortened and safe to print."""
    text = str(value)[:60] if isinstance(value, (str, int, Decimal)) else type(value).__name__
    return repr(printable(text, limit=40))
