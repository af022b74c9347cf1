"""How long to wait before the next attempt to reach a broker, and which failures to log.

Pauses double from 0.2 s to 15 s and are jittered, so that many clients do not reconnect at the same time. The first
failure of an outage is logged. A later failure is logged if its reason is new and only a change of settings helps. All
others are logged at debug.
"""

from __future__ import annotations

import logging
import random
from typing import Final

from iem_dcr.everest_api.broker_errors import TWICE_HINT, BrokerError

_log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.2
MAX_PAUSE_S: Final = 15.0
LASTING_PAUSE_S: Final = 5.0
"""Minimum pause if only a change of settings helps. Two clients with one client_id end each other's connections."""
STABLE_S: Final = 1.0
"""After a connection that lasted this long, pauses start at `FIRST_PAUSE_S` again."""

SHORT_S: Final = 20.0
MAX_SHORT: Final = 6
"""This many consecutive connections that the broker ended within `SHORT_S` mean that another client uses the same
client_id. MQTT 3.1.1 has no reason code for that, and mosquitto 2.0.11 sends none with MQTT 5 either."""


class Backoff:
    """Tracks the outages of one broker.

    Args:
        name: of the broker. Each log line begins with it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._reasons: set[str] = set()
        self._pause_s = FIRST_PAUSE_S
        self._short = 0

    def connected(self) -> bool:
        """End the outage, and return whether there was one."""
        was_out = bool(self._reasons)
        self._reasons.clear()
        return was_out

    def failed(self, error: BrokerError) -> float:
        """Log why there is no connection, or why connections keep ending. Return the pause before the next attempt."""
        lasted_s = error.lasted_s
        if lasted_s is not None and lasted_s >= STABLE_S:
            self._pause_s = FIRST_PAUSE_S
        is_short = lasted_s is not None and lasted_s < SHORT_S and not error.lasting
        self._short = self._short + 1 if is_short else 0
        if self._short >= MAX_SHORT:
            reason = f"it has ended {MAX_SHORT} connections soon after they were made. {TWICE_HINT}"
            error = BrokerError(reason, lasting=True)
        self._log(error)
        pause_s = max(self._pause_s, LASTING_PAUSE_S if error.lasting else 0.0)
        self._pause_s = min(pause_s * 2, MAX_PAUSE_S)
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311  it spreads clients and is no secret

    def _log(self, error: BrokerError) -> None:
        reason, is_first = str(error), not self._reasons
        is_told = is_first or (error.lasting and reason not in self._reasons)
        self._reasons.add(reason)
        level = logging.DEBUG if not is_told else logging.ERROR if error.lasting else logging.WARNING
        _log.log(level, "%s: %s; trying again", self._name, reason)
