"""Finds serial numbers that answer at two addresses of the configuration. Two drivers would fight over such a meter.

The input are the serial numbers that the drivers read. One odd reading proves nothing, and a meter that moves to
another address shows its serial at both within a moment. So an address has a serial if its newest live value is at most
5 s old, and if it has shown the serial for 10 s without a gap. By then a meter that moved has left its old address. A
serial that two addresses have is a duplicate.

A duplicate ends on evidence: one of the addresses shows another serial, or nothing for a minute. A meter that is silent
for a while or power-cycled is still the same meter at two addresses.
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
    """A serial that an address has shown without a gap, from ``since_s`` to ``last_s``."""

    serial: str
    since_s: float
    last_s: float

    def is_certain(self, now_s: float) -> bool:
        return now_s - self.last_s <= FRESH_S and self.last_s - self.since_s >= SHOWN_FOR_S

    def is_gone(self, now_s: float) -> bool:
        return now_s - self.last_s > GONE_AFTER_S


class DuplicateSerials:
    """The serial numbers that answer at two addresses or more."""

    def __init__(self) -> None:
        self._shown: dict[str, _Shown] = {}
        self._duplicates: dict[str, frozenset[str]] = {}

    def update(self, serials: Mapping[str, str], now_s: float) -> Mapping[str, frozenset[str]]:
        """Process new readings, and return the addresses of each duplicate serial.

        Args:
            serials: the serial by address, for each live value since the last call.
            now_s: a monotonic clock, seconds.
        """
        for address, serial in serials.items():
            if not serial:
                continue
            before = self._shown.get(address)
            if before is not None and before.serial == serial and now_s - before.last_s <= FRESH_S:
                self._shown[address] = replace(before, last_s=now_s)
            else:
                self._shown[address] = _Shown(serial, now_s, now_s)
        addresses: defaultdict[str, set[str]] = defaultdict(set)
        for address, shown in self._shown.items():
            was_duplicate = address in self._duplicates.get(shown.serial, ())
            if shown.is_certain(now_s) or (was_duplicate and not shown.is_gone(now_s)):
                addresses[shown.serial].add(address)
        self._duplicates = {serial: frozenset(found) for serial, found in addresses.items() if len(found) > 1}
        return self._duplicates
