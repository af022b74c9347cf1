"""What is known of one meter: its last live value, who it is, and which faults stand.

`Meter.read` is the one way to ask for a live value. Whatever a value shows (another serial, an error word, that the
meter is back) is taken up here, whoever asked.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from iem_dcr.driver.seldom import Seldom
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import MeterError, MeterTimeoutError, MeterUnreachableError, printable
from iem_dcr.powermeter import Powermeter, StationError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from datetime import datetime

    from iem_dcr.config import Settings
    from iem_dcr.device.client import MeterClient
    from iem_dcr.device.messages import Gateway, MeterValue
    from iem_dcr.driver.station import GuardedStation
    from iem_dcr.driver.timing import Deadline

POLL_TIMEOUT_S = 2.0
"""The longest a live value may take."""
CLOCK_JUMP = timedelta(seconds=5)
"""A clock that jumps further than this between two readings was restarted or set by somebody."""
FAILED_POLLS_FOR_FAULT = 2
UNHEALTHY_READINGS_FOR_ERROR = 3
MOST_EXCHANGES = 16
"""More than so many different exchanges are no exchanges: whatever answers makes serials up."""

COMMUNICATION_FAULT = StationError(
    "powermeter/CommunicationFault", "Communication timed out", "This error is raised due to communication timeout"
)
VENDOR_ERROR = "powermeter/VendorError"
ERROR_STATE = "IEM-DCR error state"
WRONG_SERIAL = "IEM-DCR wrong meter"
KNOWN_ERRORS = (
    (COMMUNICATION_FAULT.type, COMMUNICATION_FAULT.sub_type),
    (VENDOR_ERROR, ERROR_STATE),
    (VENDOR_ERROR, WRONG_SERIAL),
)
"""Type and sub_type of every error the driver may raise."""


class MeterLog(logging.LoggerAdapter[logging.Logger]):
    """A log whose lines name the meter, and in which a failure that goes on is one warning.

    Topics that failed before are logged at debug until `recovered` is called for them. What comes and goes without end
    is written now and then (`Seldom`).
    """

    def __init__(self, address: str) -> None:
        super().__init__(logging.getLogger("iem_dcr.driver"), {})
        self._address = address
        self._failing: set[str] = set()
        self._seldom: dict[str, Seldom] = {}

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:  # noqa: ANN401  the signature is logging's
        """Put the meter before the message."""
        return f"meter {self._address}: {msg}", kwargs

    def failure(self, topic: str, msg: str, *args: object) -> None:
        """Log a failure: a warning the first time, debug while it goes on."""
        if topic in self._failing:
            self.debug(msg, *args)
            return
        self._failing.add(topic)
        self.seldom(f"{topic} failed").warning(msg, *args)

    def seldom(self, topic: str) -> Seldom:
        """Return what writes the lines of a topic that others bring about, however many they are."""
        return self._seldom.setdefault(topic, Seldom(self, now_s))

    def recovered(self, topic: str) -> None:
        """Say that a topic works again."""
        if topic in self._failing:
            self._failing.discard(topic)
            self.seldom(f"{topic} works").info("%s works again", topic)


class Meter:
    """One meter, as the driver knows it.

    Attributes:
        settings: its settings.
        client: speaks with it.
        station: what is published goes there.
        wall: the host's clock.
        log: the log that names the meter.
        value: the last live value, or None.
        read_at: the host's time at which it was read.
        gateway: the last answer of GET /gw, or None.
        public_key: hex of its DER key, or "" while it is not known.
        last_PG: PG of the last tuple it has signed; "" when it has signed none; None when that is not known.
        reached: it has answered since this process began.
        in_fault: a CommunicationFault is raised.
        doubted: something failed since the meter was last initialised, so a power cycle may have gone unseen.
        exchanged: another meter answers than before, and it has not been initialised yet.
        is_slow: its live values take longer than 2 s, or the last one did not come in that time.
        wrong: why this meter must get nothing posted (another serial than configured), or "".
    """

    def __init__(
        self,
        settings: Settings,
        client: MeterClient,
        station: GuardedStation,
        wall: Callable[[], datetime],
    ) -> None:
        self.settings = settings
        self.client = client
        self.station = station
        self.wall = wall
        self.log = MeterLog(client.address)
        self.value: MeterValue | None = None
        self.read_at: datetime | None = None
        self.gateway: Gateway | None = None
        self.public_key = ""
        self.last_PG: str | None = None
        self.reached = False
        self.in_fault = False
        self.doubted = False
        self.exchanged = False
        self.is_slow = False
        self.wrong = ""
        self._clock_off_before: timedelta | None = None
        self._failed_polls = 0
        self._unhealthy = 0
        self._errors: dict[str, StationError] = {}
        self._exchanges: set[tuple[str, str]] = set()

    @property
    def running(self) -> bool:
        """Whether a transaction was active at the last live value."""
        return self.value is not None and bool(self.value.XT)

    @property
    def serial(self) -> str:
        """Serial number at the last live value, or "" before the first."""
        return self.value.MS if self.value else ""

    @property
    def clock_off(self) -> timedelta | None:
        """How far the meter's clock was ahead of the host's at the last live value."""
        if self.value is None or self.value.TM is None or self.read_at is None:
            return None
        return self.value.TM.instant - self.read_at

    def clock_was_set(self) -> None:
        """Take note that the clock was set, so that its jump is none."""
        self._clock_off_before = None

    async def read(self, deadline: Deadline) -> MeterValue:
        """Ask for a live value (GET /metervalue) and take up what it shows.

        Raises:
            MeterError: there is none.
        """
        began_s = now_s()
        limit_s = None if self.is_slow else POLL_TIMEOUT_S
        try:
            value = await self.client.metervalue(timeout_s=min(deadline.left_s, limit_s or deadline.left_s))
        except (MeterTimeoutError, MeterUnreachableError):
            # It may be slow: the next value is waited for as long as any other answer.
            self.is_slow = self.is_slow or now_s() - began_s >= POLL_TIMEOUT_S
            raise
        self.is_slow = now_s() - began_s >= POLL_TIMEOUT_S
        self._take_up(value)
        return value

    async def poll(self, deadline: Deadline) -> bool:
        """Make a scheduled reading and publish it. Two that fail in a row are a communication fault."""
        try:
            value = await self.read(deadline)
        except MeterError as error:
            self._no_value(error)
            self.count_failure()
            return False
        self.publish(value)
        return True

    def count_failure(self) -> None:
        """Count a scheduled reading, or a try to reach the meter, that failed; the second in a row is a fault."""
        self._failed_polls += 1
        if self._failed_polls >= FAILED_POLLS_FOR_FAULT and not self.in_fault:
            self.in_fault = True
            self._raise(COMMUNICATION_FAULT)

    def count_silence(self) -> None:
        """Count a scheduled reading that a command cut short, if the meter has answered nothing at all meanwhile."""
        limit_s = self.settings.command_timeout_ms / 1000 if self.is_slow else POLL_TIMEOUT_S
        if seconds_since(self.client.last_response_s) >= limit_s:
            self.doubted = True
            self.log.failure("reading the meter", "no live value: no answer within %.0f s", limit_s)
            self.count_failure()

    def publish(self, value: MeterValue) -> None:
        """Publish a live value, unless it is another meter's than the one configured."""
        if self.wrong:
            return
        self.station.publish_powermeter(
            Powermeter(
                timestamp=self.wall() if value.TM is None else value.TM.instant,
                meter_id=printable(value.MS),
                energy_wh_import=value.import_wh,
                energy_wh_export=value.export_wh,
                power_w=value.P,
                voltage_v=value.U2,
                current_a=value.I,
            )
        )

    async def read_and_publish(self, deadline: Deadline) -> bool:
        """Publish a live value within a command, which never fails for want of one. Returns whether there was one."""
        try:
            self.publish(await self.read(deadline))
        except MeterError as error:
            self._no_value(error)
            return False
        return True

    def _no_value(self, error: MeterError) -> None:
        self.doubted = True
        self.log.failure("reading the meter", "no live value: %s", error.brief)
        self.station.reading_failed(error.brief)

    def _take_up(self, value: MeterValue) -> None:
        before = self.value
        if before is not None and not value.MS:
            value = replace(value, MS=before.MS)
        self.value = value
        self.read_at = self.wall()
        self.reached = True
        self._failed_polls = 0
        self.log.recovered("reading the meter")
        if self.in_fault:
            self.in_fault = False
            self._clear(COMMUNICATION_FAULT.sub_type)
        if before is not None and before.MS != value.MS:
            self._was_exchanged(before.MS, value.MS)
        self._judge_clock()
        self._judge_serial(value)
        self._judge_health(value)
        self.station.value_read(value, self.read_at)

    def _was_exchanged(self, before: str, now: str) -> None:
        exchange = printable(before), printable(now)
        if exchange not in self._exchanges and len(self._exchanges) < MOST_EXCHANGES:
            self._exchanges.add(exchange)
            self.log.error("the meter was exchanged: its serial was %s and is %s", *exchange)
            if len(self._exchanges) == MOST_EXCHANGES:
                self.log.error("the meter was exchanged %d times: no more of it is logged", MOST_EXCHANGES)
        self.exchanged = self.doubted = True
        self.gateway = None
        self.last_PG = None
        self.public_key = ""
        self.clock_was_set()

    def _judge_clock(self) -> None:
        """Doubt a meter whose clock jumped: it may have been power-cycled between two readings."""
        before, self._clock_off_before = self._clock_off_before, self.clock_off
        if before is not None and self.clock_off is not None and abs(self.clock_off - before) > CLOCK_JUMP:
            self.doubted = True

    def _judge_serial(self, value: MeterValue) -> None:
        expected = self.settings.meter_serial
        if expected and value.MS and expected != value.MS:
            if not self.wrong:
                self.wrong = f"the meter has serial {printable(value.MS)}, configured is meter_serial {expected}"
                self.log.error("%s: nothing is sent to it. Check ip_address and meter_serial", self.wrong)
                self._raise(StationError(VENDOR_ERROR, WRONG_SERIAL, self.wrong))
        elif self.wrong:
            self.wrong = ""
            self._clear(WRONG_SERIAL)

    def _judge_health(self, value: MeterValue) -> None:
        text = printable(value.XC)
        if value.has_error is None:
            self.log.failure("the meter's state (XC)", "the meter's state is not known: XC cannot be read: %r", text)
            return
        if not value.has_error:
            self._unhealthy = 0
            self.log.recovered("the meter's state (XC)")
            self._clear(ERROR_STATE)
            return
        self.log.failure("the meter's state (XC)", "the meter is in error: XC is %s", text)
        if value.XT:
            # In EVerest any error of a power meter stops the charging; the receipt will say what the meter thought.
            return
        self._unhealthy += 1
        if self._unhealthy >= UNHEALTHY_READINGS_FOR_ERROR and ERROR_STATE not in self._errors:
            self._raise(StationError(VENDOR_ERROR, ERROR_STATE, f"the meter reports XC {text}"))

    def _raise(self, error: StationError) -> None:
        self._errors[error.sub_type] = error
        self.station.raise_error(error)

    def _clear(self, sub_type: str) -> None:
        error = self._errors.pop(sub_type, None)
        if error is not None:
            self.station.clear_error(error)


def seconds_since(moment_s: float | None) -> float:
    """Return the seconds since a moment on the loop's clock; without one, more than any interval."""
    return float("inf") if moment_s is None else now_s() - moment_s
