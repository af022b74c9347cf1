"""Publishes a meter's status: live values, the key, and the communication check.

The communication check is either ``true`` or withheld. It is never ``false``, because that switches the check off for
good. Withholding it is the only way to signal an error on this API, and it causes an emergency stop under load. So it
is withheld only if the meter cannot be used: it does not answer, or it is not the configured meter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.meter_state import COMMUNICATION_FAULT, VENDOR_ERROR, WRONG_SERIAL
from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import Schedule, now_s, seconds_since
from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.everest_api.bus import Bus
    from iem_dcr.everest_api.topics import Topics
    from iem_dcr.powermeter import Powermeter, StationError

_log = logging.getLogger(__name__)

CHECK_PERIOD_S: Final = 2.0
CHECK_GOOD_S: Final = 2.0
VALUE_GOOD_S: Final = 2.0
KEY_GOOD_S: Final = 60.0
RESPONSE_TIMEOUT_S: Final = 4.0
"""A meter without an answer for this long cannot be reached. The driver reads it every second."""
HEARTBEAT_TIMEOUT_S: Final = 5.0

_UNREACHABLE: Final = frozenset(
    {(COMMUNICATION_FAULT.type, COMMUNICATION_FAULT.sub_type), (VENDOR_ERROR, WRONG_SERIAL)}
)
_HEARTBEAT: Final = re.compile(rb"[ \t\r\n]{0,8}(\d{1,20})[ \t\r\n]{0,8}")


class StatusPublisher:
    """Publishes one meter's status. It is the driver's station.

    Args:
        topics: of the meter.
        bus: to EVerest.
        last_response_s: returns when the meter last answered, on the loop's clock, or None while it is not identified.
        key: returns the public key of the meter that answers, or "".
        phase: of the check's schedule.
    """

    def __init__(
        self,
        topics: Topics,
        bus: Bus,
        last_response_s: Callable[[], float | None],
        key: Callable[[], str],
        *,
        phase: float | None = None,
    ) -> None:
        self._topics = topics
        self._bus = bus
        self._last_response_s = last_response_s
        self._key = key
        self._phase = phase
        self._errors: dict[tuple[str, str], str] = {}
        self._value = b""
        self._value_s: float | None = None
        self._was_reachable = False
        self._wake = asyncio.Event()
        self._heartbeat = 0
        self._heartbeat_s: float | None = None
        self._lines = RateLimitedLog(_log, now_s)
        self._heartbeat_lines = RateLimitedLog(_log, now_s)

    @property
    def reachable(self) -> bool:
        """Whether the meter can be reached, as published to EVerest."""
        if self._errors.keys() & _UNREACHABLE:
            return False
        return seconds_since(self._last_response_s()) < RESPONSE_TIMEOUT_S

    async def run(self) -> None:
        """Publish the check every two seconds, and as soon as the meter can be reached again."""
        schedule = Schedule(CHECK_PERIOD_S, self._phase)
        while True:
            self._check()
            if self._heartbeat_s is not None and seconds_since(self._heartbeat_s) >= HEARTBEAT_TIMEOUT_S:
                self._heartbeat_s = None
                self._heartbeat_lines.info("EVerest's heartbeat is away")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(schedule.next_s):
                    await self._wake.wait()
            schedule.advance()

    def announce(self) -> None:
        """Publish check, key and a fresh value, for an EVerest that may have just started: nothing is retained."""
        self._check()
        self.publish_public_key(self._key())
        if seconds_since(self._value_s) < VALUE_GOOD_S:
            self._bus.offer(self._topics.values, self._value, good_for_s=VALUE_GOOD_S)

    # --- the driver's station ---

    def publish_powermeter(self, value: Powermeter) -> None:
        """Publish a live value."""
        self._value, self._value_s = _json(value.to_json()), now_s()
        self._bus.offer(self._topics.values, self._value, good_for_s=VALUE_GOOD_S)
        self._look_again()

    def publish_public_key(self, key: str) -> None:
        """Publish the public key. An empty one is not published, because EVerest would store it."""
        if key:
            self._bus.offer(self._topics.key, _json(key), good_for_s=KEY_GOOD_S)

    def raise_error(self, error: StationError) -> None:
        """Mark an error as active. EVerest learns only of those in `_UNREACHABLE`: the API has no topic for errors."""
        kind = (error.type, error.sub_type)
        self._errors[kind] = printable(error.message)
        if kind not in _UNREACHABLE:
            self._lines.warning("%s: %s (EVerest is not told)", error.sub_type, printable(error.message))
        self._look_again()

    def clear_error(self, error: StationError) -> None:
        """Mark an error as no longer active."""
        self._errors.pop((error.type, error.sub_type), None)
        self._lines.info("%s is over", error.sub_type)
        self._look_again()

    # --- what EVerest publishes ---

    def take_heartbeat(self, message: bytes, retained: bool) -> None:  # noqa: FBT001  the bus's way of calling
        """Note EVerest's heartbeat. After a silence, or if its number has fallen, EVerest may have restarted."""
        match = _HEARTBEAT.fullmatch(message)
        if match is None or retained:
            _log.debug("a heartbeat is ignored: %s", printable(message[:40]))
            return
        number, before = int(match[1]), self._heartbeat
        was_away = seconds_since(self._heartbeat_s) >= HEARTBEAT_TIMEOUT_S
        self._heartbeat, self._heartbeat_s = number, now_s()
        if was_away or number < before:
            self._heartbeat_lines.info("EVerest's heartbeat is there%s", "" if was_away else " anew")
            self.announce()

    # --- inside ---

    def _look_again(self) -> None:
        """Wake `run` if reachability has changed. It looks later, as one answer may end an error and begin another."""
        if self.reachable != self._was_reachable:
            self._wake.set()

    def _check(self) -> None:
        reachable, was_reachable = self.reachable, self._was_reachable
        self._was_reachable = reachable
        if reachable:
            self._bus.offer(self._topics.check, b"true", good_for_s=CHECK_GOOD_S)
        if reachable and not was_reachable:
            self._lines.info("the meter can be reached")
        elif was_reachable and not reachable:
            why = next((self._errors[kind] for kind in _UNREACHABLE if kind in self._errors), "it does not answer")
            self._lines.warning("the meter cannot be reached, and communication_check is withheld: %s", why)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
