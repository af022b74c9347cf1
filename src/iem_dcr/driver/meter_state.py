"""What the driver knows of the meter itself: its last live value, its serial, and its faults.

A live value is a picture of some moment ago. The ledger gets what it shows of transactions. This module judges what
the station sees: which meter it is, whether it is in error, whether it answers, and what may be published.
One odd reading changes nothing. Another serial counts when a second reading, a second later, agrees.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from shlex import quote
from typing import TYPE_CHECKING, Final

from iem_dcr.config import PIN
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import printable
from iem_dcr.meter_time import RELEASED
from iem_dcr.powermeter import Powermeter, StationError

if TYPE_CHECKING:
    from datetime import datetime

    from iem_dcr.config import Settings
    from iem_dcr.device.messages import Gateway, MeterValue
    from iem_dcr.driver.host_clock import HostClock
    from iem_dcr.driver.rate_limited_log import MeterLog
    from iem_dcr.driver.station import GuardedStation

CLOCK_JUMP: Final = timedelta(seconds=5)
"""A meter whose clock jumps further than this between two readings was restarted, or its clock was set."""
FAILED_POLLS_FOR_FAULT: Final = 2
ERROR_READINGS_FOR_FAULT: Final = 3
AGREES_AFTER_S: Final = 0.9
FROZEN_AFTER_S: Final = 10.0
FURTHEST: Final = timedelta(hours=1)
"""The meter's time is published if it is this close to the host's."""
MAX_EXCHANGES: Final = 16
"""After this many different exchanges, no more are logged: a real meter does not change its serial that often."""
CURRENT_FLOWS_A: Final = Decimal("0.5")

COMMUNICATION_FAULT: Final = StationError(
    "powermeter/CommunicationFault", "Communication timed out", "This error is raised due to communication timeout"
)
VENDOR_ERROR: Final = "powermeter/VendorError"
ERROR_STATE: Final = "IEM-DCR error state"
WRONG_SERIAL: Final = "IEM-DCR wrong meter"
INTERRUPTED: Final = "transaction interrupted"
KNOWN_ERRORS: Final = (
    (COMMUNICATION_FAULT.type, COMMUNICATION_FAULT.sub_type),
    (VENDOR_ERROR, ERROR_STATE),
    (VENDOR_ERROR, WRONG_SERIAL),
    (VENDOR_ERROR, INTERRUPTED),
)
"""Type and sub_type of every error that a driver raises. A new process clears those of the previous one."""


class MeterState:
    """The state of one meter, as its live values show it.

    Attributes:
        value: the last live value, or None.
        read_at: the host's time when the value was read.
        serial: the accepted serial, or "" before the first value.
        gateway: the last answer of GET /gw, or None.
        public_key: hex of the meter's DER key, or "" while it is unknown.
        reached: the meter has answered since this process began.
        in_fault: the meter does not answer, or its values are frozen.
        needs_reinit: since the initialisation a request failed or the clock jumped. A power cycle may have gone unseen.
        wrong: why nothing is posted to this meter (its serial is not the wanted one), or "".
        pinned: the serial that the journal has pinned for this address, or "".
        is_slow: the last live value took longer than 2 s, or did not come in that time.
        held_registers, frozen_values: how often a register was held, or a value not published, for the metrics.
    """

    def __init__(self, settings: Settings, station: GuardedStation, clock: HostClock, log: MeterLog) -> None:
        self.value: MeterValue | None = None
        self.read_at: datetime | None = None
        self.serial = ""
        self.gateway: Gateway | None = None
        self.public_key = ""
        self.reached = False
        self.in_fault = False
        self.needs_reinit = False
        self.wrong = ""
        self.pinned = ""
        self.is_slow = False
        self.held_registers = 0
        self.frozen_values = 0
        self.clock_leap: timedelta | None = None
        self._settings = settings
        self._station = station
        self._clock = clock
        self._log = log
        self._other: tuple[str, float] | None = None
        self._exchanges: set[tuple[str, str]] = set()
        self._clock_off_before: timedelta | None = None
        self._failed_polls = 0
        self._error_readings = 0
        self._published: dict[str, dict[str, Decimal]] = {}
        self._picture: tuple[object, ...] = ()
        self._moved_s = 0.0
        self._has_moved = False

    @property
    def clock_off(self) -> timedelta | None:
        """How far the meter's clock was ahead of the host's at the last live value; None if unknown."""
        if self.value is None or self.value.TM is None or self.read_at is None:
            return None
        return self.value.TM.instant - self.read_at

    @property
    def XT(self) -> bool | None:  # noqa: N802  the meter's name
        """Whether the newest value shows a transaction; None if there is no value, or it has no XT."""
        return None if self.value is None else self.value.XT

    @property
    def current_flows(self) -> bool:
        """Whether the newest value shows a current so high that no transaction may begin or end."""
        return self.value is not None and self.value.I is not None and abs(self.value.I) > CURRENT_FLOWS_A

    @property
    def unaccepted(self) -> str:
        """Why nothing may be sent to the answering meter, or "". Its serial is wrong, or was read only once so far."""
        return self.wrong or ("another meter answers than before" if self._other is not None else "")

    @property
    def moved_s(self) -> float:
        """When the newest value was first seen, on the loop's clock. A value that stands still shows that moment."""
        return self._moved_s

    @property
    def stands_still(self) -> bool:
        """Whether the values have not changed for 10 s, so that they do not show what the meter does now."""
        return now_s() - self._moved_s >= FROZEN_AFTER_S

    @property
    def is_frozen(self) -> bool:
        """Whether the live values stand still although the meter answers requests, and have moved before."""
        return self._has_moved and self.stands_still

    def clock_was_set(self) -> None:
        """Note that the driver set the clock, so that the step does not count as a jump."""
        self._clock_off_before = None

    # --- readings ---

    def record(self, value: MeterValue, *, is_open: bool) -> bool:
        """Record what a live value shows; ``is_open``: a transaction may run. Returns whether it may be published."""
        self.reached = True
        self._failed_polls = 0
        self._log.recovered("reading the meter")
        value = value if value.MS else replace(value, MS=self.serial)
        if not self._accept_serial(value.MS):
            return False
        self.value, self.read_at = value, self._clock.now()
        self._judge_clock()
        self._judge_serial(is_open=is_open)
        self._judge_errors(value)
        self._judge_movement(value, is_open=is_open)
        if self.in_fault and not self.is_frozen:
            self.in_fault = False
            self._station.clear_error(COMMUNICATION_FAULT.sub_type)
        self._station.value_read(value, self.read_at)
        return not self.wrong and not self.is_frozen

    def no_value(self, problem: str) -> None:
        """Note that a reading failed. It counts towards a fault only by `count_failure`."""
        self.needs_reinit = True
        self._log.failure("reading the meter", "no live value: %s", problem)
        self._station.observe("reading_failed", problem)

    def count_failure(self) -> None:
        """Count a failed scheduled reading or a failed attempt to reach the meter. Two in a row are a fault."""
        self._failed_polls += 1
        if self._failed_polls >= FAILED_POLLS_FOR_FAULT:
            self._raise_fault()

    def publish(self) -> None:
        """Publish the last live value. If a register fell, its last published value is repeated until it is passed."""
        value = self.value
        if value is None:
            return
        self._station.publish_powermeter(
            Powermeter(
                timestamp=self._time_of(value),
                meter_id=printable(value.MS),
                energy_wh_import=self._held(value.MS, "import", value.import_wh),
                energy_wh_export=None if value.export_wh is None else self._held(value.MS, "export", value.export_wh),
                power_w=value.P,
                voltage_v=value.U2,
                current_a=value.I,
            )
        )

    def pin(self, serial: str, *, is_open: bool) -> None:
        """Set the serial that is pinned for this address ("": unknown), and judge the meter by it at once."""
        if serial in ("", self.pinned):
            return
        self.pinned = serial
        self._station.clear_error(WRONG_SERIAL)
        if self.serial:
            self._judge_serial(is_open=is_open)

    def raise_interrupted(self, why: str) -> None:
        """Raise an error: a transaction is over, and the station believes that it runs."""
        self._log.error("the transaction is over, and the station has not asked for its end: %s", why)
        self._station.raise_error(StationError(VENDOR_ERROR, INTERRUPTED, why))

    def clear_interrupted(self) -> None:
        """Clear the error of `raise_interrupted`: the station knows."""
        self._station.clear_error(INTERRUPTED)

    # --- private ---

    def _raise_fault(self) -> None:
        if not self.in_fault:
            self.in_fault = True
            self._station.raise_error(COMMUNICATION_FAULT)

    def _accept_serial(self, MS: str) -> bool:
        """Return whether the meter is the one that answered before, or a new one that two readings have shown."""
        if self.serial == MS or not self.serial:
            if self._other is not None:
                what = "serial %s was read once where %s answers: does another device have the same address?"
                log = self._log.limited("another serial")
                log.log(logging.WARNING, what, printable(self._other[0]), printable(MS))
            self.serial, self._other = MS, None
            return True
        if self._other is None or self._other[0] != MS or now_s() - self._other[1] < AGREES_AFTER_S:
            self._other = self._other if self._other is not None and self._other[0] == MS else (MS, now_s())
            return False
        self._log_exchange(printable(self.serial), printable(MS))
        self.serial, self._other = MS, None
        self.needs_reinit = True
        self.gateway, self.public_key, self.value = None, "", None
        self._has_moved = False
        self.clock_was_set()
        return True

    def _log_exchange(self, before: str, now: str) -> None:
        if (before, now) not in self._exchanges and len(self._exchanges) < MAX_EXCHANGES:
            self._exchanges.add((before, now))
            self._log.error("the meter was exchanged: its serial was %s and is %s", before, now)
            if len(self._exchanges) == MAX_EXCHANGES:
                self._log.error("the meter was exchanged %d times: further exchanges are not logged", MAX_EXCHANGES)

    def _judge_clock(self) -> None:
        """Request an initialisation if the clock jumped: the meter may have been power-cycled between two readings."""
        off = self.clock_off
        before, self._clock_off_before = self._clock_off_before, off if off is not None else self._clock_off_before
        self.clock_leap = None if before is None or off is None else off - before
        if self.clock_leap is not None and abs(self.clock_leap) > CLOCK_JUMP:
            self.needs_reinit = True

    def _judge_serial(self, *, is_open: bool) -> None:
        is_pinned = self._settings.meter_serial == PIN
        wanted = self.pinned if is_pinned else self._settings.meter_serial
        if not wanted or wanted == self.serial:
            if self.wrong:
                self._log.limited("the right meter").info("serial %s is accepted", printable(self.serial))
            self.wrong = ""
            self._station.clear_error(WRONG_SERIAL)
            return
        serial = printable(self.serial)
        wrong = f"the meter has serial {serial}, but {printable(wanted)} is expected"
        command = f"iem-dcr receipts pin {quote(serial)} --address {quote(self._log.address)}, or " if is_pinned else ""
        to_do = f"check ip_address; to accept this meter: {command}set meter_serial to {serial}"
        if wrong != self.wrong:
            self.wrong = wrong
            self._log.limited("the wrong meter").log(logging.ERROR, "%s: nothing is sent to it; %s", wrong, to_do)
        if not is_open:
            self._station.raise_error(StationError(VENDOR_ERROR, WRONG_SERIAL, f"{wrong}; {to_do}"))

    def _judge_errors(self, value: MeterValue) -> None:
        text = printable(value.XC)
        if value.has_error is None:
            self._log.failure("the meter's state (XC)", "the meter's state is unknown: XC is unreadable: %r", text)
            return
        if not value.has_error:
            self._error_readings = 0
            self._log.recovered("the meter's state (XC)")
            self._station.clear_error(ERROR_STATE)
            return
        self._log.failure("the meter's state (XC)", "the meter is in error: XC is %s", text)
        if value.XT:
            # In EVerest any error of a power meter stops the charging. The receipt will show the meter's own state.
            return
        self._error_readings += 1
        if self._error_readings >= ERROR_READINGS_FOR_FAULT:
            self._station.raise_error(StationError(VENDOR_ERROR, ERROR_STATE, f"the meter reports XC {text}"))

    def _judge_movement(self, value: MeterValue, *, is_open: bool) -> None:
        """Count values that stand still, clock included. A clock that has never moved proves nothing."""
        picture = value.TM, value.import_wh, value.export_wh, value.I, value.P
        if picture != self._picture or value.TM is None:
            self._has_moved = self._has_moved or (bool(self._picture) and value.TM is not None)
            self._picture, self._moved_s = picture, now_s()
            self._log.recovered("the meter's live values")
        elif self.is_frozen:
            self.frozen_values += 1
            self._log.failure("the meter's live values", "the live values stand still: nothing is published")
            if not is_open:
                self._raise_fault()

    def _time_of(self, value: MeterValue) -> datetime:
        now = self._clock.now()
        if value.TM is None:
            return now
        meters = value.TM.instant
        if self._clock.is_set:
            return meters if abs(meters - now) <= FURTHEST else now
        return meters if meters > RELEASED else now

    def _held(self, serial: str, register: str, energy_wh: Decimal) -> Decimal:
        published = self._published.setdefault(serial, {})
        before = published.get(register, energy_wh)
        if energy_wh < before:
            self.held_registers += 1
            self._log.failure(
                f"the {register} register",
                "the %s register fell from %s Wh to %s Wh: %s Wh is published until the register passes it",
                register,
                before,
                energy_wh,
                before,
                level=logging.ERROR,
            )
            return before
        if energy_wh > before:
            self._log.recovered(f"the {register} register")
        published[register] = energy_wh
        return energy_wh
