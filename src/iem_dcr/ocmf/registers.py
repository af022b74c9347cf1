"""What a register counts, by its OBIS code (OCMF 1.4.1, RI; IEC 62056-6-1).

OCMF writes ``A-B:C.D.E`` with F left out or behind ``.`` or ``*``; the groups are read as hexadecimal, as the
transparency software does: this meter's ``1-b:1.8.e``, ``01-00:98.08.00.FF`` of others. C says what is counted: 1 and
2 are the totals of import and export; B0 to B3 and C0 to C3 are OCMF's own for import and export, at the meter or with
the cable's loss taken out, as total or of the transaction; 98 and 9E are older codes for import without and with loss.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_GROUP = r"([0-9a-f]*)"
_CODE = re.compile(
    rf"{_GROUP}(?:-{_GROUP}(?::{_GROUP}(?:\.{_GROUP}(?:\.{_GROUP}(?:[.*]{_GROUP})?)?)?)?)?", re.ASCII | re.IGNORECASE
)
BLANKS = "".join(map(chr, range(0x21)))
"""What the transparency software cuts off around an RI, a TX or a number."""

_LONGEST_KEPT = 40
_ENERGY = 8
_IMPORT = frozenset({0x01, 0x98, 0x9E, 0xB0, 0xB1, 0xB2, 0xB3})
_EXPORT = frozenset({0x02, 0xC0, 0xC1, 0xC2, 0xC3})
_COMPENSATED = frozenset({0x98, 0xB1, 0xB3, 0xC1, 0xC3})
_JUDGED = frozenset({0x01, 0x98, 0x9E, *range(0xB0, 0xC8)})
_TOTAL = frozenset({0x00, 0x200, 0x255, 0xFF})


@dataclass(frozen=True, slots=True)
class Register:
    """What an OBIS code says.

    Attributes:
        groups: A to F; F is 0 for a total, however that is written.
        direction: "import", "export", or "" where it is neither of energy.
        judged: the transparency software looks at this register to judge a transaction.
        compensated: the cable's loss is taken out; where a transaction has such a register, only those are judged.
    """

    groups: tuple[int, ...]
    direction: str
    judged: bool
    compensated: bool


def register_of(code: str) -> Register | None:
    """Read an OBIS code; None where it is none of electrical energy's (or none at all)."""
    return _register_of(code) if len(code) <= _LONGEST_KEPT else _read(code)


def key_of_register(code: str) -> object:
    """Return what is the same for one register however it is spelled: ``1-0:1.8.0`` and ``01-00:1.8.0*255``."""
    register = register_of(code)
    return code if register is None else register.groups


def _read(code: str) -> Register | None:
    match = _CODE.fullmatch(code.strip(BLANKS))
    if match is None:
        return None
    a, b, c, d, e, f = (int(group or "0", 16) & 0xFFFFFFFF for group in match.groups())
    if a != 1 or d != _ENERGY or c not in _JUDGED | _EXPORT:
        return None
    f = 0 if f in _TOTAL else f
    direction = "import" if c in _IMPORT else "export" if c in _EXPORT else ""
    compensated = c in _COMPENSATED
    return Register((a, b, c, d, e, f), direction, compensated or (c in _JUDGED and f == 0), compensated)


_register_of = lru_cache(maxsize=256)(_read)
