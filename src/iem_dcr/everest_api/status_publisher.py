"""Publishes a meter's status: live values, the key, and the communication check.

The communication check is ``true`` or withheld, never ``false``: that would switch it off for good. Withholding it is
all this API has for an error, and an emergency stop under load: so it is withheld only where nothing can be done with
the meter, because it does not answer or is another than the one configured.
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
"""A meter that has answered nothing for so long cannot be reached: it is read every second."""
HEARTBEAT_TIMEOUT_S: Final = 5.0

_UNREACHABLE: Final = frozenset(
    {(COMMUNICATION_FAULT.type, COMMUNICATION_FAULT.sub_type), (VENDOR_ERROR, WRONG_SERIAL)}
)
_HEARTBEAT: Final = re.compile(rb"[ \t\r\n]{0,8}(\d{1,20})[ \t\r\n]{0,8}")


class StatusPublisher:
    """Publishes one meter's status; the driver's station.

    Args:
        topics: of the meter.
        bus: to EVerest.
        last_response_s: when the meter last answered, on the loop's clock; None while it is not known who answers.
        key: the public key of the meter that answers, or "".
        phase: where in its period the check is published (see `timing.Schedule`).
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
        self._heartbeat_away = False
        self._lines = RateLimitedLog(_log, now_s)
        self._heartbeat_lines = RateLimitedLog(_log, now_s)

    @property
    def reachable(self) -> bool:
        """Whether the meter can be reached, as EVerest is told."""
        if self._errors.keys() & _UNREACHABLE:
            return False
        return seconds_since(self._last_response_s()) < RESPONSE_TIMEOUT_S

    async def run(self) -> None:
        """Publish the check every two seconds, and as soon as the meter can be reached again."""
        schedule = Schedule(CHECK_PERIOD_S, self._phase)
        while True:
            self._check()
            self._notice_heartbeat()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(schedule.next_s):
                    await self._wake.wait()
            schedule.advance()

    def announce(self) -> None:
        """Publish all there is, for an EVerest that may know nothing: the broker keeps nothing of it."""
        self._check()
        self._offer_key(self._key())
        if seconds_since(self._value_s) < VALUE_GOOD_S:
            self._bus.offer(self._topics.values, self._value, good_for_s=VALUE_GOOD_S)

    # --- the driver's station ---

    def publish_powermeter(self, value: Powermeter) -> None:
        """Publish a live value."""
        self._value = _json(value.to_json())
        self._value_s = now_s()
        self._bus.offer(self._topics.values, self._value, good_for_s=VALUE_GOOD_S)
        self._look_again()

    def publish_public_key(self, key: str) -> None:
        """Publish the public key."""
        self._offer_key(key)

    def raise_error(self, error: StationError) -> None:
        """Have an error active. This API has no means to tell EVerest of any but two of them."""
        kind = (error.type, error.sub_type)
        self._errors[kind] = printable(error.message)
        if kind not in _UNREACHABLE:
            self._lines.warning("%s: %s (EVerest is not told)", error.sub_type, printable(error.message))
        self._look_again()

    def clear_error(self, error: StationError) -> None:
        """Have an error active no more."""
        self._errors.pop((error.type, error.sub_type), None)
        self._lines.info("%s is over", error.sub_type)
        self._look_again()

    # --- what EVerest publishes ---

    def take_heartbeat(self, message: bytes, retained: bool) -> None:  # noqa: FBT001  the bus's way of calling
        """Take EVerest's heartbeat; after a silence, or when its number fell, another EVerest may be there."""
        match = _HEARTBEAT.fullmatch(message)
        if match is None or retained:
            _log.debug("a heartbeat that is none: %s", printable(message[:40]))
            return
        number, before = int(match[1]), self._heartbeat
        silent_s = seconds_since(self._heartbeat_s)
        self._heartbeat, self._heartbeat_s, self._heartbeat_away = number, now_s(), False
        if silent_s >= HEARTBEAT_TIMEOUT_S or number < before:
            self._heartbeat_lines.info(
                "EVerest's heartbeat is there%s", "" if silent_s >= HEARTBEAT_TIMEOUT_S else " anew"
            )
            self.announce()

    def take_ready_beacon(self, _message: bytes, _retained: bool) -> None:  # noqa: FBT001  as above
        """Take EVerest's word that it has just started."""
        self.announce()

    # --- inside ---

    def _look_again(self) -> None:
        """Have `run` look, once the driver is done: an answer can end one error and begin another."""
        if self.reachable != self._was_reachable:
            self._wake.set()

    def _check(self) -> None:
        reachable = self.reachable
        if reachable:
            self._bus.offer(self._topics.check, b"true", good_for_s=CHECK_GOOD_S)
        if reachable and not self._was_reachable:
            self._lines.info("the meter can be reached")
        elif self._was_reachable and not reachable:
            why = next((self._errors[kind] for kind in _UNREACHABLE if kind in self._errors), "it does not answer")
            self._lines.warning("the meter cannot be reached, and communication_check is withheld: %s", why)
        self._was_reachable = reachable

    def _offer_key(self, key: str) -> None:
        if key:
            self._bus.offer(self._topics.key, _json(key), good_for_s=KEY_GOOD_S)

    def _notice_heartbeat(self) -> None:
        if not self._heartbeat_away and HEARTBEAT_TIMEOUT_S <= seconds_since(self._heartbeat_s) < float("inf"):
            self._heartbeat_away = True
            self._heartbeat_lines.info("EVerest's heartbeat is away")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
