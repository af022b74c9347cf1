"""What an outage of the broker is: why connections end, what is said of that, and the pause before the next one."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Final

from iem_dcr.everest_api.link import TWICE_HINT, TakenOverError

if TYPE_CHECKING:
    from iem_dcr.everest_api.dialing import BrokerTroubleError

_log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 15.0
TAKEN_OVER_PAUSE_S: Final = 5.0
"""The least pause after another client took the session over, so that two do not throw each other out all the time."""
STABLE_S: Final = 1.0
"""A connection that lasted that long makes the pauses start anew."""

SHORT_S: Final = 20.0
MOST_SHORT: Final = 6
"""So many connections in a row that the broker ended within `SHORT_S`, and took again at once, mean another client of
the same name: with MQTT 3.1.1 no broker says so, and mosquitto 2.0.11 does not with MQTT 5 either."""


class Outages:
    """The outages of one broker.

    Args:
        name: of the broker, as a log line begins.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._troubles: set[str] = set()
        self._pause_s = FIRST_PAUSE_S
        self._short = 0

    def lasted(self, lasted_s: float) -> None:
        """Take note that there was a connection, however it ended."""
        if lasted_s >= STABLE_S:
            self._pause_s = FIRST_PAUSE_S

    def ended(self, trouble: BrokerTroubleError, lasted_s: float) -> None:
        """Say what ended a connection, or what must be behind it when that happens all the time."""
        self._short = self._short + 1 if lasted_s < SHORT_S and not trouble.lasting else 0
        if self._short >= MOST_SHORT:
            trouble = TakenOverError(f"it has ended {MOST_SHORT} connections soon after they were made. {TWICE_HINT}")
        self.tell(trouble)

    def not_made(self, trouble: BrokerTroubleError) -> None:
        """Say why there is no connection."""
        self._short = 0
        self.tell(trouble)

    def over(self) -> bool:
        """Take note that there is a connection. Returns whether there had been an outage."""
        was_out = bool(self._troubles)
        self._troubles.clear()
        return was_out

    def next_pause_s(self) -> float:
        """Return how long to wait before the next try, which is longer each time."""
        pause_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311  spreads clients, no secret
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        return pause_s

    def tell(self, trouble: BrokerTroubleError) -> None:
        """Log the first reason of an outage, and those that somebody has to do something about; each once."""
        reason, is_first = str(trouble), not self._troubles
        is_new = reason not in self._troubles
        self._troubles.add(reason)
        is_warning = is_first or (trouble.lasting and is_new)
        level = logging.DEBUG if not is_warning else logging.ERROR if trouble.lasting else logging.WARNING
        _log.log(level, "%s: %s; trying again", self._name, reason)
        if isinstance(trouble, TakenOverError):
            self._pause_s = max(self._pause_s, TAKEN_OVER_PAUSE_S)
