"""What a register counts, by its OBIS code (OCMF 1.4.1, RI; IEC 62056-6-1).

OCMF writes ``A-B:C.D.E``. F is omitted, or follows ``.`` or ``*``. The groups are read as hexadecimal, as in the
transparency software: this meter has ``1-b:1.8.e``, others have ``01-00:98.08.00.FF``. C is the quantity:

* 1 and 2 are the totals of import and export.
* B0 to B3 and C0 to C3 are OCMF's codes for import and export: at the meter or with the cable's loss subtracted, as a
  total or for the transaction.
* 98 and 9E are older codes for import without and with the loss.
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
"""Characters that the transparency software strips from an RI, a TX or a number."""

_LONGEST = 40
_ENERGY = 8
_IMPORT = frozenset({0x01, 0x98, 0x9E, 0xB0, 0xB1, 0xB2, 0xB3})
_EXPORT = frozenset({0x02, 0xC0, 0xC1, 0xC2, 0xC3})
_COMPENSATED = frozenset({0x98, 0xB1, 0xB3, 0xC1, 0xC3})
_JUDGED = frozenset({0x01, 0x98, 0x9E, *range(0xB0, 0xC8)})
_TOTAL = frozenset({0x00, 0x200, 0x255, 0xFF})


@dataclass(frozen=True, slots=True)
class Register:
    """The meaning of an OBIS code.

    Attributes:
        groups: A to F. F is 0 for a total in any notation.
        direction: "import", "export", or "" for neither.
        judged: whether the transparency software judges transactions by this register.
        compensated: whether the cable's loss is subtracted. If a transaction has such registers, only these are judged.
    """

    groups: tuple[int, ...]
    direction: str
    judged: bool
    compensated: bool


def register_of(code: str) -> Register | None:
    """Parse an OBIS code. Return None if it is not one of electrical energy, or not an OBIS code."""
    return _register_of(code) if len(code) <= _LONGEST else None


def key_of_register(code: str) -> object:
    """Return a key that is equal for all notations of a register: ``1-0:1.8.0`` and ``01-00:1.8.0*255``."""
    register = register_of(code)
    return code if register is None else register.groups


@lru_cache(maxsize=256)
def _register_of(code: str) -> Register | None:
    match = _CODE.fullmatch(code.strip(BLANKS))
    if match is None:
        return None
    a, b, c, d, e, f = (int(group or "0", 16) for group in match.groups())
    if a != 1 or d != _ENERGY or c not in _JUDGED | _EXPORT:
        return None
    f = 0 if f in _TOTAL else f
    direction = "import" if c in _IMPORT else "export" if c in _EXPORT else ""
    compensated = c in _COMPENSATED
    return Register((a, b, c, d, e, f), direction, compensated or (c in _JUDGED and f == 0), compensated)
