"""The rules by which begin and end of a transaction are judged; `iem_dcr.ocmf.findings` says whose they are."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from iem_dcr.errors import printable
from iem_dcr.ocmf.finding_codes import Finding, finding
from iem_dcr.ocmf.transaction import Row, ends_of, judged_of, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iem_dcr.ocmf.receipt import Receipt

ERROR_LEVELS = frozenset({"MISMATCH", "INVALID", "OUTDATED", "UNKNOWN"})
"""Values of IL that say that the user was not identified."""

WITHOUT_LEVEL = Decimal("0.5")
"""Before this FV the level stands in IS, and readings count events in EI."""


def judge_transaction(receipts: Sequence[Receipt], rows: list[Row]) -> Iterator[Finding]:
    """Yield what is found in a transaction that has a begin and an end, each with the index of its receipt."""
    judged = judged_of(rows)
    yield from _levels(receipts)
    yield from _counts(judged)
    yield from _first(judged)
    begins, ends = _begins_and_ends(judged)
    for row in (*begins, *ends):
        yield from _end(row)
    for row in begins:
        yield from _begin_flag(row)
    for row in ends:
        yield from _end_flag(row)
    for begin, end in zip(begins[:1], ends[-1:], strict=False):
        yield from _begin_to_end(begin, end)
        yield from _event_counter(receipts, begin, end)
    yield from _between(rows, {id(row) for row in (*begins, *ends)})


def _at(row: Row, code: str, text: str, field: str) -> Finding:
    return finding(code, text, field=field, reading=row.index, receipt=row.receipt)


def _begins_and_ends(judged: list[Row]) -> tuple[list[Row], list[Row]]:
    registers = ends_of(judged).values()
    begins = [row for register in registers for row in register.begins]
    ends = [row for register in registers for row in register.ends]
    return begins, ends


def _levels(receipts: Sequence[Receipt]) -> Iterator[Finding]:
    for number, receipt in enumerate(receipts):
        name = "IS" if _is_old(receipt) else "IL"
        level = receipt.payload.get(name)
        if isinstance(level, str) and level.strip() in ERROR_LEVELS:
            text = f"{name} is {level.strip()}: the user was not identified"
            yield finding("identification-level", text, field=name, receipt=number)


def _is_old(receipt: Receipt) -> bool:
    version = version_of(receipt)
    return version is not None and version < WITHOUT_LEVEL


def _counts(judged: list[Row]) -> Iterator[Finding]:
    registers = ends_of(judged)
    for code, word in (("begin", "begins"), ("end", "ends")):
        of = {name: getattr(register, word) for name, register in registers.items()}
        having = [name for name, rows in of.items() if rows]
        if not having:
            yield finding(f"{code}-missing", f"no register that is judged has a {code}", field="TX")
        for name in having:
            for row in of[name][1:]:
                yield _at(row, f"{code}-repeated", f"a further {code} of register {printable(name, limit=40)}", "TX")
    several = [name for name, register in registers.items() if register.begins or register.ends]
    if len(several) > 1:
        names = printable(", ".join(several[:10]), limit=100)
        yield finding("registers-mixed", f"begin or end of {len(several)} registers: {names}", field="RI")


def _first(judged: list[Row]) -> Iterator[Finding]:
    """ST and RU: the transparency software takes them from the judged reading before, so the first has to have them."""
    if not judged:
        return
    first = judged[0]
    for name, code, value in (("ST", "status-missing", first.reading.ST), ("RU", "unit-missing", first.reading.RU)):
        if not value:
            yield _at(first, code, f"{name} is missing", name)
        elif name not in first.written:
            yield _at(first, "left-out", f"{name} is left out, and not filled in by other readers", name)


def _end(row: Row) -> Iterator[Finding]:
    """Judge a begin or an end by itself."""
    reading, what = row.reading, "begin" if row.reading.TX == "B" else "end"
    if reading.RV is None and row.written.get("RV") is None:
        yield _at(row, "value-missing", f"the {what} has no value", "RV")
    for name in ("TX", "RI", "RV"):
        if name not in row.written and getattr(reading, name) not in ("", None):
            yield _at(row, "left-out", f"{name} of the {what} is left out, and not filled in by other readers", name)
    if reading.ST and reading.ST != "G":
        yield _at(row, "status-not-good", f"ST of the {what} is {printable(reading.ST, limit=20)!r}, not G", "ST")
    if "E" in reading.EF:
        yield _at(row, "energy-flag", f"EF of the {what} contains E: the energy is not usable", "EF")
    if row.time_text and reading.TM is None:
        shown = printable(row.time_text[:60], limit=40)
        yield _at(row, "time-unreadable", f"TM of the {what} is no time: {shown!r}", "TM")
    if _flag(row) not in (None, "S"):
        shown = printable(_flag(row) or "", limit=20)
        yield _at(row, "time-not-synchronised", f"the clock of the {what} was not synchronised: {shown!r}", "TM")


def _begin_flag(row: Row) -> Iterator[Finding]:
    if _flag(row) is None:
        yield _at(row, "time-flag-missing", "TM of the begin has no flag of how well the clock is set", "TM")
    elif "TM" not in row.written:
        yield _at(row, "left-out", "TM of the begin is left out, and not filled in by other readers", "TM")


def _end_flag(row: Row) -> Iterator[Finding]:
    if _flag(row) is None:
        yield _at(row, "time-flag-missing-at-end", "TM of the end has no flag of how well the clock is set", "TM")


def _flag(row: Row) -> str | None:
    """Return what the transparency software takes for the flag: what stands behind the first space of TM."""
    parts = row.time_text.rstrip(" ").split(" ")
    return parts[1] if len(parts) > 1 else None


def _begin_to_end(begin: Row, end: Row) -> Iterator[Finding]:
    first, last = begin.reading, end.reading
    begin_wh, end_wh = first.energy_wh, last.energy_wh
    if first.RU != last.RU:
        text = f"the begin is in {printable(first.RU, limit=20)!r}, the end in {printable(last.RU, limit=20)!r}"
        yield _at(end, "units-mixed", text, "RU")
    if _falls(begin_wh, end_wh) or _falls(first.RV, last.RV):
        yield _at(end, "register-falling", f"the register falls from {first.RV} to {last.RV}", "RV")
    if first.TM and last.TM and first.TM.instant > last.TM.instant:
        yield _at(end, "time-falling", "the end is earlier than the begin", "TM")
    relative = _flag(begin) == "R", _flag(end) == "R"
    if relative == (True, False):
        yield _at(end, "time-relative-mixed", "the begin's time is relative (R), the end's is not", "TM")
    if relative == (False, True):
        yield _at(end, "time-relative-at-end", "the end's time is relative (R), the begin's is not", "TM")


def _falls(first: Decimal | None, last: Decimal | None) -> bool:
    return first is not None and last is not None and first > last


def _event_counter(receipts: Sequence[Receipt], begin: Row, end: Row) -> Iterator[Finding]:
    counter = end.written.get("EI")
    if _is_old(receipts[end.receipt]) and counter is not None and counter != begin.written.get("EI"):
        yield _at(end, "event-counter", "EI differs between begin and end", "EI")


def _between(rows: list[Row], judged_ends: set[int]) -> Iterator[Finding]:
    last: dict[str, Row] = {}
    for row in rows:
        if id(row) not in judged_ends:
            yield from _not_an_end(row)
        before = last.get(row.reading.RI)
        if before is not None and not {id(before), id(row)} <= judged_ends:
            yield from _falling(before, row)
        if row.reading.RV is not None:
            last[row.reading.RI] = row


def _not_an_end(row: Row) -> Iterator[Finding]:
    if row.reading.ST not in ("G", ""):
        yield _at(row, "status-not-good-between", f"ST is {printable(row.reading.ST, limit=20)!r}, not G", "ST")
    if "E" in row.reading.EF:
        yield _at(row, "energy-flag-between", "EF contains E: the energy is not usable", "EF")


def _falling(before: Row, row: Row) -> Iterator[Finding]:
    first, last = before.reading, row.reading
    if _falls(first.energy_wh, last.energy_wh):
        text = f"register {printable(last.RI, limit=40)} falls from {first.RV} to {last.RV}"
        yield _at(row, "register-falling-between", text, "RV")
    if first.TM and last.TM and first.TM.instant > last.TM.instant:
        yield _at(row, "time-falling-between", "earlier than the reading of the same register before it", "TM")
