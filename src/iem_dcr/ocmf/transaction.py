"""Judging begin and end of a transaction as the transparency software does (`iem_dcr.ocmf.rules`).

A row is judged by what stands in it: that software fills in nothing but ST and RU. Where it therefore misses what OCMF
takes from the reading before, the finding is ``left-out``, so that the reason can be told from a value that is not
there at all.
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
from iem_dcr.ocmf.rules import Finding, finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from iem_dcr.ocmf.receipt import Receipt

ERROR_LEVELS = frozenset({"MISMATCH", "INVALID", "OUTDATED", "UNKNOWN"})
"""Values of IL that say that the user was not identified."""

WITHOUT_LEVEL = 0.5
"""Before this FV the level stands in IS, and readings count events in EI."""

_DOUBLE = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,9})?[dDfF]?", re.ASCII)
_TIME = re.compile(
    r"(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T(\d\d):([0-5]\d):([0-5]\d),(\d{3})([+-])(\d\d)([0-5]\d)", re.ASCII
)
_LONGEST_NUMBER = 400
_WIDEST_OFFSET = timedelta(hours=18)
_WH = {"wh": 1000.0}


class _Judged(NamedTuple):
    """A row of a register that is judged, with ST and RU as the transparency software fills them in, and the flag of
    its time.
    """

    number: int | None
    row: Row
    register: Register
    TX: str
    ST: str | None
    RU: str | None
    flag: str | None

    def found(self, code: str, text: str, field: str) -> Finding:
        return finding(code, text, field=field, reading=self.row.at, receipt=self.number)

    @property
    def what(self) -> str:
        return "begin" if self.TX == "B" else "end"


class Transaction:
    """Judges begin and end, in the order of the transparency software."""

    def __init__(self, numbered: list[tuple[int | None, Receipt]]) -> None:
        self._numbered = numbered
        self._rows = [(number, row) for number, receipt in numbered for row in receipt.rows]
        self._judged = _judged_of(self._rows)

    def judge(self) -> list[Finding]:
        """Yield what is found in a begin and an end, and in the readings between."""
        found: list[Finding] = []
        if len(self._numbered) > 1:
            found += self._parts()
        found += self._levels()
        found += self._first()
        begins = [one for one in self._judged if one.TX == "B"]
        ends = [one for one in self._judged if one.TX in ENDING]
        found += self._counts(begins, ends)
        for one in (*begins, *ends):
            found += _of_end(one)
        for one in begins:
            found += _begin_flag(one)
        for one in ends:
            if one.flag is None:
                text = "TM of the end has no flag of how well the clock is set"
                found.append(one.found("time-flag-missing-at-end", text, "TM"))
        if begins and ends:
            found += self._begin_to_end(begins[0], ends[-1])
        if len(self._numbered) > 1:
            found += self._across()
        if len(self._rows) > len(begins) + len(ends):
            found += self._between({id(one.row) for one in (*begins, *ends)})
        return found

    def _levels(self) -> list[Finding]:
        found: list[Finding] = []
        for number, receipt in self._numbered:
            name = "IS" if is_old(receipt) else "IL"
            level = (text_of(receipt.payload.get(name)) or "").strip(BLANKS)
            if level in ERROR_LEVELS:
                text = f"{name} is {level}: the user was not identified"
                found.append(finding("identification-level", text, field=name, receipt=number))
        return found

    def _parts(self) -> list[Finding]:
        """The first of two tuples may hold no end, the second no begin, of whatever register."""
        found: list[Finding] = []
        for at, (code, what, not_there) in enumerate(
            (("end-repeated", "end", ENDING), ("begin-repeated", "begin", frozenset("B")))
        ):
            number = self._numbered[at][0]
            for of, row in self._rows:
                if of == number and _TX(row.written) in not_there:
                    text = f"the tuple of the {'begin' if at == 0 else 'end'} holds a {what}"
                    found.append(finding(code, text, field="TX", reading=row.at, receipt=number))
        return found

    def _first(self) -> list[Finding]:
        """ST and RU are filled in from the judged reading before, so the first has to have them."""
        found: list[Finding] = []
        for one in self._judged[:1]:
            for name, code in (("ST", "status-missing"), ("RU", "unit-missing")):
                if one.row.written.get(name) is None:
                    is_inherited = name not in one.row.written and getattr(one.row.reading, name)
                    text = f"{name} is left out, and not filled in by other readers" if is_inherited else None
                    found.append(one.found("left-out" if text else code, text or f"{name} is missing", name))
        return found

    def _counts(self, begins: list[_Judged], ends: list[_Judged]) -> list[Finding]:
        found: list[Finding] = []
        if len(begins) == len(ends) == 1 and begins[0].row.written["RI"] == ends[0].row.written["RI"]:
            return found
        for code, ones in (("begin", begins), ("end", ends)):
            if not ones:
                found += self._not_there(code)
            seen: set[object] = set()
            for one in ones:
                which = one.number, one.register.groups  # one in the other's tuple is told by _parts
                if which in seen:
                    text = f"a further {code} of register {printable(one.row.written['RI'], limit=40)}"
                    found.append(one.found(f"{code}-repeated", text, "TX"))
                seen.add(which)
        both = (*begins, *ends)
        spellings = {one.register.groups: str(one.row.written["RI"]) for one in both}
        if len(spellings) > 1:
            names = printable(", ".join([*spellings.values()][:10]), limit=100)
            found.append(finding("registers-mixed", f"begin or end of {len(spellings)} registers: {names}", field="RI"))
        elif len({one.row.written["RI"] for one in both}) > 1:
            text = f"the register is spelled {quoted(both[0].row.written['RI'])} and otherwise"
            found.append(both[-1].found("register-spelling", text, "RI"))
        return found

    def _not_there(self, code: str) -> list[Finding]:
        """Tell a begin or end that leaves out what other readers look for from one that is not there."""
        found: list[Finding] = []
        rows = [(number, row) for number, row in self._rows if _is_judged(row.reading.RI)]
        number_of = {id(row): number for number, row in rows}
        is_told = False
        for register in ends_of(row for _, row in rows).values():
            for row in register.begins if code == "begin" else register.ends:
                for name in ("TX", "RI", "RV"):
                    if row.written.get(name) is None and getattr(row.reading, name) not in ("", None):
                        text = f"{name} of the {code} is left out, and not filled in by other readers"
                        at, where = row.at, number_of[id(row)]
                        found.append(finding("left-out", text, field=name, reading=at, receipt=where))
                        is_told = True
        if not is_told:
            found.append(finding(f"{code}-missing", f"no register that is judged has a {code}", field="TX"))
        return found

    def _begin_to_end(self, begin: _Judged, end: _Judged) -> list[Finding]:
        found: list[Finding] = []
        first, last = begin.row.reading, end.row.reading
        if begin.RU != end.RU and None not in (begin.RU, end.RU):
            text = f"the begin is in {quoted(begin.RU or '')}, the end in {quoted(end.RU or '')}"
            found.append(end.found("units-mixed", text, "RU"))
        falls = _is_above(_number(begin.row), _number(end.row))
        if falls or (first.RU != last.RU and _is_above(first.energy_wh, last.energy_wh)):
            found.append(end.found("register-falling", f"the register falls from {first.RV} to {last.RV}", "RV"))
        found += _times(begin, end)
        relative = begin.flag == "R", end.flag == "R"
        if relative == (True, False):
            found.append(end.found("time-relative-mixed", "the begin's time is relative (R), the end's is not", "TM"))
        if relative == (False, True):
            found.append(end.found("time-relative-at-end", "the end's time is relative (R), the begin's is not", "TM"))
        counter = double_in(end.row.written.get("EI"))
        if counter is not None:
            receipt = next(receipt for number, receipt in self._numbered if number == end.number)
            if is_old(receipt) and counter != double_in(begin.row.written.get("EI")):
                found.append(end.found("event-counter", "EI differs between begin and end", "EI"))
        return found

    def _across(self) -> list[Finding]:
        """Every judged reading of the begin's tuple has to be as low as every one of the end's, in kWh."""
        found: list[Finding] = []
        number_of_begin = self._numbered[0][0]
        of_begin: list[tuple[float, int | None, Row]] = []
        of_end: list[tuple[float, int | None, Row]] = []
        for number, row in self._rows:
            register = _own_register(row)
            if register is not None and register.judged and register.groups[5] == 0:
                (of_begin if number == number_of_begin else of_end).append((_kwh(row), number, row))
        if not of_begin or not of_end:
            code = "begin-missing" if not of_begin else "end-missing"
            found.append(finding(code, "its tuple holds no total of a register that is judged", field="RI"))
            return found
        highest = max(value for value, _, _ in of_begin)
        lowest, number, row = min(of_end, key=lambda one: one[0])
        is_told = len(of_begin) == len(of_end) == 1 and _is_above(_number(of_begin[0][2]), _number(row))
        if highest > lowest and not is_told:
            text = f"the end's tuple holds {lowest:g} kWh, the begin's {highest:g} kWh"
            found.append(finding("register-falling", text, field="RV", reading=row.at, receipt=number))
        return found

    def _between(self, judged_ends: set[int]) -> list[Finding]:
        found: list[Finding] = []
        last: dict[object, tuple[int | None, Row]] = {}
        for number, row in self._rows:
            reading = row.reading
            if id(row) not in judged_ends:
                if reading.ST not in ("G", ""):
                    text = f"ST is {printable(reading.ST, limit=20)!r}, not G"
                    found.append(finding("status-not-good-between", text, field="ST", reading=row.at, receipt=number))
                if "E" in reading.EF:
                    text = "EF contains E: the energy is not usable"
                    found.append(finding("energy-flag-between", text, field="EF", reading=row.at, receipt=number))
            register = key_of_register(reading.RI)
            of, before = last.get(register, (None, None))
            if before is not None and not {id(before), id(row)} <= judged_ends:
                is_told = of != number and _is_judged(reading.RI)  # the readings of two tuples are judged already
                found += _falling(before, row, number, is_told=is_told)
            if reading.RV is not None:
                last[register] = number, row
        return found


def _judged_of(rows: Iterable[tuple[int | None, Row]]) -> list[_Judged]:
    """Return the rows of registers with the cable's loss taken out, or where there are none, of all that are judged."""
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
        flag = _flag(row.time_text)
        judged.append(_Judged(number, row, register, _TX(row.written), ST, RU, flag))
    return judged


def _own_register(row: Row) -> Register | None:
    RI = row.written.get("RI")
    return register_of(RI) if isinstance(RI, str) else None


def _is_judged(RI: str) -> bool:
    register = register_of(RI)
    return register is not None and register.judged


def _of_end(one: _Judged) -> list[Finding]:
    """Judge a begin or an end by itself."""
    found: list[Finding] = []
    reading, written, what = one.row.reading, one.row.written, one.what
    if written.get("RV") is None:
        if reading.RV is not None and "RV" not in written:
            text = f"RV of the {what} is left out, and not filled in by other readers"
            found.append(one.found("left-out", text, "RV"))
        else:
            found.append(one.found("value-missing", f"the {what} has no value", "RV"))
    if one.ST not in ("G", None):
        found.append(one.found("status-not-good", f"ST of the {what} is {printable(one.ST, limit=20)!r}, not G", "ST"))
    if "E" in reading.EF or "E" in (text_of(written.get("EF")) or ""):
        found.append(one.found("energy-flag", f"EF of the {what} contains E: the energy is not usable", "EF"))
    time_text = one.row.time_text
    if time_text and reading.TM is None:
        shown = printable(time_text[:60], limit=40)
        found.append(one.found("time-unreadable", f"TM of the {what} is no time: {shown!r}", "TM"))
    if one.flag not in (None, "S"):
        shown = printable(one.flag, limit=20)
        found.append(
            one.found("time-not-synchronised", f"the clock of the {what} was not synchronised: {shown!r}", "TM")
        )
    return found


def _begin_flag(one: _Judged) -> list[Finding]:
    found: list[Finding] = []
    if one.flag is None:
        found.append(one.found("time-flag-missing", "TM of the begin has no flag of how well the clock is set", "TM"))
    elif one.row.written.get("TM") is None:
        found.append(one.found("left-out", "TM of the begin is left out, and not filled in by other readers", "TM"))
    return found


def _times(begin: _Judged, end: _Judged) -> list[Finding]:
    found: list[Finding] = []
    first, last = _time_there(begin), _time_there(end)
    if first is not None and last is not None:
        if first > last:
            found.append(end.found("time-falling", f"the end is earlier than the begin, which is at {first}", "TM"))
        return found
    own_first, own_last = begin.row.reading.TM, end.row.reading.TM
    if own_first and own_last and own_first.instant > own_last.instant:
        found.append(end.found("time-falling-between", "the end is earlier than the begin", "TM"))
    return found


def _falling(before: Row, row: Row, number: int | None, *, is_told: bool) -> list[Finding]:
    found: list[Finding] = []
    first, last = before.reading, row.reading
    if not is_told and _is_above(first.energy_wh, last.energy_wh):
        text = f"register {printable(last.RI, limit=40)} falls from {first.RV} to {last.RV}"
        found.append(finding("register-falling-between", text, field="RV", reading=row.at, receipt=number))
    if first.TM and last.TM and first.TM.instant > last.TM.instant:
        text = "earlier than the reading of the same register before it"
        found.append(finding("time-falling-between", text, field="TM", reading=row.at, receipt=number))
    return found


# --- values as the transparency software takes them ---


def text_of(value: object) -> str | None:
    """Return what it takes for a text: a number or a truth value is one as well."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, Decimal)) else None


def _TX(written: Mapping[str, object]) -> str:  # noqa: N802  TX is OCMF's name
    TX = written.get("TX")
    return TX.strip(BLANKS) if isinstance(TX, str) else ""


def double_in(value: object) -> float | None:
    """Read a number in binary, as Java does; None where it is none."""
    text = None if isinstance(value, bool) else text_of(value)
    return None if text is None or len(text) > _LONGEST_NUMBER else _double(text)


@lru_cache(maxsize=64)
def _double(text: str) -> float | None:
    number = text.strip(BLANKS)
    return float(number.rstrip("dDfF")) if _DOUBLE.fullmatch(number) else None


def _number(row: Row) -> float | None:
    """The bare number of a row: compared in binary, whatever its unit."""
    value = row.reading.RV
    return None if value is None or row.written.get("RV") is None else float(value)


def _kwh(row: Row) -> float:
    value, RU = _number(row), text_of(row.written.get("RU"))
    return (value or 0.0) / _WH.get((RU or "").strip(BLANKS).lower(), 1.0)


def _flag(time_text: str) -> str | None:
    """Return what it takes for the flag: what stands behind the first space of TM."""
    if " " not in (text := time_text.rstrip(" ")):
        return None
    return text.split(" ", 2)[1]


def _time_there(one: _Judged) -> datetime | None:
    """Read TM as it does: milliseconds behind a comma, an offset without a colon, and any flag. 24:00:00,000 is the
    next day's beginning, and a day past the end of its month is the month's last.
    """
    TM, read = one.row.written.get("TM"), one.row.reading.TM
    if not isinstance(TM, str) or one.flag is None:
        return None
    if read is not None and _is_plain_time(TM):
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
    """Whether a time that this reader has read is one of that software's form as well, with an offset below 18 h."""
    return TM[19] == "," and TM[20:23].isdigit() and TM[23] in "+-" and TM[24:26] < "18" and TM[28:29] == " "


def _is_above(first: float | Decimal | None, last: float | Decimal | None) -> bool:
    return first is not None and last is not None and first > last


def is_old(receipt: Receipt) -> bool:
    """Whether a receipt is of OCMF before 0.5."""
    version = double_in(receipt.payload.get("FV"))
    return version is not None and version < WITHOUT_LEVEL


def quoted(value: object) -> str:
    """Write a value of a tuple in quotes, cut and fit to be printed."""
    text = str(value)[:60] if isinstance(value, (str, int, Decimal)) else type(value).__name__
    return repr(printable(text, limit=40))
