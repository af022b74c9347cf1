"""Finds a serial that answers at two addresses of the file: two drivers would fight over one meter.

It is told the serials that the drivers read, and keeps nothing from any of them. One odd reading proves nothing, and a
meter that moves to another address has shown its serial at both within a moment. So an address has a serial while its
newest live value is at most 5 s old and it has shown the serial for 10 s without a break: a meter that moved is no
longer at its old address by the time it has been at its new one for long enough. A serial that two addresses have is a
duplicate.

It ends on evidence: one of them shows another serial, or nothing for a minute. A meter that is silent for a while, or
power-cycled, is still the same meter at two addresses.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN_FOR_S: Final = 10.0
FRESH_S: Final = 5.0
GONE_AFTER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Shown:
    """A serial that an address has shown without a break, from one moment to another."""

    serial: str
    since_s: float
    last_s: float

    def is_sure(self, now_s: float) -> bool:
        return now_s - self.last_s <= FRESH_S and self.last_s - self.since_s >= SHOWN_FOR_S

    def is_gone(self, now_s: float) -> bool:
        return now_s - self.last_s > GONE_AFTER_S


class DuplicateSerials:
    """Which serials answer at two addresses or more."""

    def __init__(self) -> None:
        self._shown: dict[str, _Shown] = {}
        self._found: dict[str, frozenset[str]] = {}

    def take_up(self, read: Mapping[str, str], now_s: float) -> Mapping[str, frozenset[str]]:
        """Take up what was read, and return the addresses of each duplicate.

        Args:
            read: the serial by address, of each live value that came since the last call.
            now_s: a monotonic clock, seconds.
        """
        for address, serial in read.items():
            if not serial:
                continue
            before = self._shown.get(address)
            if before is not None and before.serial == serial and now_s - before.last_s <= FRESH_S:
                self._shown[address] = replace(before, last_s=now_s)
            else:
                self._shown[address] = _Shown(serial, now_s, now_s)
        having: defaultdict[str, set[str]] = defaultdict(set)
        for address, shown in self._shown.items():
            was_found = address in self._found.get(shown.serial, ())
            if shown.is_sure(now_s) or (was_found and not shown.is_gone(now_s)):
                having[shown.serial].add(address)
        self._found = {serial: frozenset(addresses) for serial, addresses in having.items() if len(addresses) > 1}
        return self._found
