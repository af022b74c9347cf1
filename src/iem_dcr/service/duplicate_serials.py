"""Finds serial numbers that answer at two addresses of the configuration. Two drivers would fight over such a meter.

One odd reading proves nothing, and a meter that moves to another address shows its serial at both within a moment. So
an address has a serial if its newest live value is at most 5 s old, and if it has shown the serial for 10 s without a
gap. By then a meter that moved has left its old address. A serial that two addresses have is a duplicate.

A duplicate ends on evidence: one of the addresses shows another serial, or nothing for a minute. A meter that is silent
for a while or power-cycled is still the same meter at two addresses.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN_FOR_S: Final = 10.0
FRESH_S: Final = 5.0
GONE_AFTER_S: Final = 60.0


class _Shown(NamedTuple):
    """A serial that an address has shown without a gap, from ``since_s`` to ``last_s``."""

    serial: str
    since_s: float
    last_s: float


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
            before = self._shown.get(address)
            goes_on = before is not None and before.serial == serial and now_s - before.last_s <= FRESH_S
            if serial:
                self._shown[address] = _Shown(serial, before.since_s if before and goes_on else now_s, now_s)
        addresses: defaultdict[str, set[str]] = defaultdict(set)
        for address, (serial, since_s, last_s) in self._shown.items():
            is_certain = now_s - last_s <= FRESH_S and last_s - since_s >= SHOWN_FOR_S
            if is_certain or (address in self._duplicates.get(serial, ()) and now_s - last_s <= GONE_AFTER_S):
                addresses[serial].add(address)
        self._duplicates = {serial: frozenset(found) for serial, found in addresses.items() if len(found) > 1}
        return self._duplicates
