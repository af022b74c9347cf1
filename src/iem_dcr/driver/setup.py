"""Initialisation of a meter, and what is due to it: charge point, clock, tariff text, public key.

`Setup.initialise` asks; `Setup.make_up` sends what is due, and sends nothing while a transaction runs. What could not
be sent stays due.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from iem_dcr import ocmf
from iem_dcr.device.messages import Gateway
from iem_dcr.driver.meter import seconds_since
from iem_dcr.driver.texts import signable_tariff
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import MeterError, ReceiptError, RefusedError, printable
from iem_dcr.meter_time import FIRST_SANE_YEAR

if TYPE_CHECKING:
    from iem_dcr.driver.meter import Meter
    from iem_dcr.driver.timing import Deadline
    from iem_dcr.ocmf import Receipt

GW_WAITS_FOR_CLOCK_S = 60.0
CLOCK_TOLERANCE = timedelta(seconds=5)
CLOCK_TRIES_EVERY_S = 60.0
TRIES_EVERY_S = 10.0
"""How often something that failed is tried again on the meter's own account; a command tries at once."""
GW_TRIES = 3


class Setup:
    """Brings one meter into the state in which it can charge, and keeps it there.

    Attributes:
        initialised: the meter has been initialised since this process began; `Meter.doubted` says whether again.
        gw_due: CT is empty: charge point and clock have to be sent with POST /gw.
        tariff_due: TT_initial has to be sent.
        found_powered_up_s: when this process first met the meter, on the loop's clock, if its CT was empty then.
    """

    def __init__(self, meter: Meter) -> None:
        self.initialised = False
        self.gw_due = False
        self.tariff_due = False
        self.found_powered_up_s: float | None = None
        self._meter = meter
        self._zone = meter.settings.zone()
        self._TT = signable_tariff(meter.settings.TT_initial)
        self._first = True
        self._clock_due = False
        self._clock_set_s: float | None = None
        self._clock_tried_s: float | None = None
        self._gw_wanted_s: float | None = None
        self._gw_tried_s: float | None = None
        self._tariff_tried_s: float | None = None
        self._key_tried_s: float | None = None
        self._reported: Gateway | None = None
        if self._zone.warning:
            meter.log.warning("%s", self._zone.warning)
        if meter.settings.TT_initial != self._TT:
            meter.log.warning("%s", changed_text("TT_initial", meter.settings.TT_initial, self._TT))

    @property
    def ready(self) -> bool:
        """Whether a transaction may begin as far as the initialisation goes."""
        return self.initialised and not self.gw_due and not self._meter.wrong

    async def initialise(self, deadline: Deadline) -> Receipt | None:
        """Ask what has to be known: GET /gw, /metervalue, /publickey and the last tuple. Nothing is sent.

        Returns:
            The last tuple, or None.

        Raises:
            MeterError: the meter did not answer /gw or /metervalue.
        """
        meter = self._meter
        gateway = await meter.client.gw(timeout_s=deadline.left_s)
        value = await meter.read(deadline)
        if meter.wrong:
            return None
        meter.gateway = gateway
        self._first = self._first or meter.exchanged
        meter.exchanged = False
        if not gateway.is_set:
            if not self.gw_due:
                meter.log.info("serial %s: powered up, not set up yet", printable(value.MS))
                self._gw_tried_s = None
            if self._first:
                self.found_powered_up_s = now_s()
            self.gw_due = True
            if self._gw_wanted_s is None:
                # Also while a transaction runs: the start after it shall not wait for the host's clock once more.
                self._gw_wanted_s = now_s()
            self.tariff_due = bool(self._TT)
        else:
            self.gw_due = False
            self._gw_wanted_s = None
            self._report_frozen(gateway)
            if self._first:
                self._clock_due = True
                self.tariff_due = bool(self._TT)
        await self.ask_for_key(deadline)
        last = await self.ask_for_last_tuple(deadline)
        if not gateway.is_set:
            # A meter just powered up may still be signing what the power cut interrupted.
            meter.last_PG = None
        self._first = False
        self.initialised = True
        meter.doubted = False
        meter.log.recovered("the initialisation")
        return last

    async def ask_for_key(self, deadline: Deadline) -> None:
        """Ask for the public key and publish it when it is new. A failure is logged; it is asked for again."""
        meter = self._meter
        self._key_tried_s = now_s()
        try:
            answer = await meter.client.publickey(timeout_s=deadline.left_s)
            key = ocmf.public_key_der_hex(answer.PK)
        except (MeterError, ReceiptError) as error:
            meter.log.failure("the public key", "no public key: %s", getattr(error, "brief", error))
            return
        meter.log.recovered("the public key")
        if key != meter.public_key:
            if meter.public_key:
                meter.log.error("the meter's public key changed; receipts signed from now on need the new one")
            meter.public_key = key
            meter.station.publish_public_key(key)

    @property
    def key_wanted(self) -> bool:
        """Whether it is time to ask for the public key again."""
        return (
            not self._meter.public_key and not self._meter.wrong and seconds_since(self._key_tried_s) >= TRIES_EVERY_S
        )

    async def ask_for_last_tuple(self, deadline: Deadline) -> Receipt | None:
        """Ask for the last tuple and learn its PG. Where there is no answer, `Meter.last_PG` becomes None."""
        meter = self._meter
        meter.last_PG = None
        try:
            receipt = await meter.client.transaction(timeout_s=deadline.left_s)
        except MeterError as error:
            meter.log.failure("the last tuple", "the last tuple is not known: %s", error.brief)
            return None
        meter.log.recovered("the last tuple")
        meter.last_PG = "" if receipt is None else receipt.pagination
        return receipt

    async def ask_again_for_last_tuple(self, deadline: Deadline) -> Receipt | None:
        """Ask for the last tuple, and once more where there is no answer: B and E have another take its place.

        Without its PG two transactions of one card are told apart by their times alone.
        """
        last = await self.ask_for_last_tuple(deadline)
        return last if self._meter.last_PG is not None else await self.ask_for_last_tuple(deadline)

    async def make_up(self, deadline: Deadline) -> None:
        """Send what is due, if nothing runs.

        Raises:
            MeterError: POST /gw failed and stays due. The others fail with a warning.
        """
        meter = self._meter
        if meter.running or meter.wrong or not self.initialised:
            return
        if self.gw_due:
            await self._set_up(deadline)
        if self.gw_due:
            return
        if self.tariff_due:
            await self.send_tariff(deadline)
        if self._clock_wanted():
            await self._send_clock(deadline)

    @property
    def anything_due(self) -> bool:
        """Whether `make_up` would send something."""
        meter = self._meter
        if meter.running or meter.wrong or not self.initialised:
            return False
        if self.gw_due:
            return not self.waits_for_clock and seconds_since(self._gw_tried_s) >= TRIES_EVERY_S
        return (self.tariff_due and seconds_since(self._tariff_tried_s) >= TRIES_EVERY_S) or self._clock_wanted()

    # --- charge point ---

    async def _set_up(self, deadline: Deadline) -> None:
        """Send POST /gw; where the meter refuses it although it has no charge point, set the clock alone."""
        try:
            await self._send_gw(deadline)
        except RefusedError:
            if self._clock_wanted():
                await self._send_clock(deadline)
            raise

    async def _send_gw(self, deadline: Deadline) -> None:
        """Send POST /gw until the meter has a charge point. One whose answer was lost is looked for before the next."""
        meter = self._meter
        if self.waits_for_clock:
            meter.log.failure(
                "the host's clock", "the host's clock says %s: POST /gw waits for a set one", meter.wall().date()
            )
            return
        self._gw_tried_s = now_s()
        for attempt in range(GW_TRIES):
            failure = await self._post_gw(deadline)
            if failure is None:
                return
            gateway = await meter.client.gw(timeout_s=deadline.left_s)
            value = await meter.read(deadline)
            meter.gateway = gateway
            if gateway.is_set:
                self._is_set(gateway, sane=False)
                return
            if isinstance(failure, RefusedError) and not failure.may_have_acted:
                self._refused(failure)
            if value.XT or not failure.may_have_acted or deadline.passed or attempt == GW_TRIES - 1:
                raise failure
            meter.log.failure("POST /gw", "%s: the meter has no charge point yet, it is sent again", failure.brief)

    async def _post_gw(self, deadline: Deadline) -> MeterError | None:
        """Send POST /gw once. Returns what went wrong, or None when the meter took it."""
        meter, settings = self._meter, self._meter.settings
        sane = self._host_is_sane()
        try:
            await meter.client.set_gw(
                settings.CT, settings.CI, self._zone.write(meter.wall()), timeout_s=deadline.left_s
            )
        except MeterError as error:
            return error
        self._is_set(Gateway(settings.CT, settings.CI, None), sane=sane)
        if not sane:
            meter.log.warning("set up with the host's clock at %s; corrected once that is set", meter.wall().date())
        return None

    def _is_set(self, gateway: Gateway, *, sane: bool) -> None:
        """Take note that the meter has its charge point; ``sane`` says that it has the right time with it."""
        meter, settings = self._meter, self._meter.settings
        self.gw_due = False
        self._gw_wanted_s = None
        self._clock_due = not sane
        self._clock_set_s = now_s()
        self._clock_tried_s = self._clock_set_s if sane else None
        meter.clock_was_set()
        meter.gateway = gateway
        meter.log.recovered("POST /gw")
        if (gateway.CT, gateway.CI) == (settings.CT, settings.CI):
            self._reported = gateway
            meter.log.info("set up: CT %s, CI %s", settings.CT, settings.CI)
        else:
            self._report_frozen(gateway)

    def _refused(self, refusal: RefusedError) -> None:
        settings = self._meter.settings
        self._meter.log.failure(
            "POST /gw",
            "%s. CT and CI in the meter are empty, configured are CT %s and CI %s; only a power cycle of the meter "
            "lets them be set",
            refusal.brief,
            settings.CT,
            settings.CI,
        )

    def _report_frozen(self, gateway: Gateway) -> None:
        """Say once what is frozen in the meter, and warn when it is not what is configured."""
        meter, settings = self._meter, self._meter.settings
        if self._reported is not None and (self._reported.CT, self._reported.CI) == (gateway.CT, gateway.CI):
            return
        self._reported = gateway
        CT, CI = printable(gateway.CT), printable(gateway.CI)
        if (gateway.CT, gateway.CI) == (settings.CT, settings.CI):
            meter.log.info("already set up: CT %s, CI %s", CT, CI)
        else:
            meter.log.warning(
                "CT and CI are frozen in the meter as CT %s and CI %s; configured are CT %s and CI %s. Only a power "
                "cycle of the meter changes them",
                CT,
                CI,
                settings.CT,
                settings.CI,
            )

    @property
    def waits_for_clock(self) -> bool:
        """Whether POST /gw still waits for the host's clock to be set."""
        if self._host_is_sane():
            return False
        return seconds_since(self._gw_wanted_s) < GW_WAITS_FOR_CLOCK_S

    # --- clock and tariff ---

    def _host_is_sane(self) -> bool:
        sane = self._meter.wall().year >= FIRST_SANE_YEAR
        if sane:
            self._meter.log.recovered("the host's clock")
        return sane

    def _clock_wanted(self) -> bool:
        if not self._host_is_sane() or seconds_since(self._clock_tried_s) < CLOCK_TRIES_EVERY_S:
            return False
        off = self._meter.clock_off
        is_off = off is not None and abs(off) > CLOCK_TOLERANCE
        interval_s = self._meter.settings.datetime_resync_interval * 3600
        return self._clock_due or is_off or seconds_since(self._clock_set_s) >= interval_s

    async def _send_clock(self, deadline: Deadline) -> None:
        meter = self._meter
        if not self._host_is_sane():
            return
        self._clock_tried_s = now_s()
        try:
            await meter.client.set_datetime(self._zone.write(meter.wall()), timeout_s=deadline.left_s)
        except MeterError as error:
            meter.log.failure("setting the clock", "the clock was not set: %s", error.brief)
            return
        meter.log.recovered("setting the clock")
        meter.clock_was_set()
        self._clock_due = False
        self._clock_set_s = now_s()

    async def send_tariff(self, deadline: Deadline) -> None:
        """Send TT_initial. A failure is logged."""
        meter = self._meter
        self._tariff_tried_s = now_s()
        try:
            await meter.client.set_tariff(self._TT, timeout_s=deadline.left_s)
        except MeterError as error:
            meter.log.failure("the tariff text", "the tariff text was not set: %s", error.brief)
            # What is not plainly refused stays due: a text may be set twice as long as nothing runs.
            if not isinstance(error, RefusedError) or error.may_have_acted:
                return
        else:
            meter.log.recovered("the tariff text")
        self.tariff_due = False

    def tariff_was_changed(self) -> None:
        """Take note that a transaction had a tariff text of its own: TT_initial is due again after it."""
        self.tariff_due = bool(self._TT)
        self._tariff_tried_s = None


def changed_text(key: str, given: str, signed: str) -> str:
    """Say in a log line that a tariff text is signed in another form than it was given."""
    return (
        f"{key} is signed in a form every reader reads alike: given {printable(given, limit=300)!r}, "
        f"signed {printable(signed, limit=300)!r}"
    )
