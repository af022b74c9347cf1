"""Provisioning: charge point, clock, tariff text and public key of a meter, and which of them are due.

`initialise` asks, `send_due` sends. Nothing is sent while a transaction may run. What could not be sent stays due. The
meter accepts CT and CI once per power-up, so an accepted POST /gw proves a power-up.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from iem_dcr import ocmf
from iem_dcr.driver.texts import signable_tariff
from iem_dcr.driver.timing import now_s, seconds_since
from iem_dcr.errors import MeterError, ReceiptError, RefusedError, printable

if TYPE_CHECKING:
    from datetime import datetime

    from iem_dcr.device.messages import Gateway
    from iem_dcr.driver.meter import Meter
    from iem_dcr.driver.timing import Deadline

GW_WAITS_FOR_CLOCK_S: Final = 60.0
CLOCK_TOLERANCE: Final = timedelta(seconds=5)
CLOCK_TRIES_EVERY_S: Final = 60.0
TRIES_EVERY_S: Final = 10.0
"""How often a tick repeats a failed request. A command repeats it at once."""


class Provisioning:
    """Brings one meter into a state in which it can charge, and keeps it there.

    Attributes:
        initialised: the meter was initialised since this process began. `MeterState.needs_reinit` requests a new one.
        gw_due: CI is empty, so POST /gw must send charge point and clock.
        tariff_due: TT_initial must be sent.
    """

    def __init__(self, meter: Meter) -> None:
        self.initialised = False
        self.gw_due = False
        self.tariff_due = False
        self._meter = meter
        self._zone = meter.settings.zone()
        self._TT = signable_tariff(meter.settings.TT_initial)
        self._serial = ""
        self._clock_due = False
        self._clock_set_s: float | None = None
        self._clock_tried_s: float | None = None
        self._gw_wanted_s: float | None = None
        self._gw_tried_s: float | None = None
        self._tariff_tried_s: float | None = None
        self._key_tried_s: float | None = None
        self._reported: tuple[str, str] | None = None
        if self._zone.warning:
            meter.log.warning("%s", self._zone.warning)
        if meter.settings.TT_initial != self._TT:
            meter.log.warning("%s", changed_text("TT_initial", meter.settings.TT_initial, self._TT))

    # --- asking ---

    async def initialise(self, deadline: Deadline) -> None:
        """Read /gw, /metervalue, /publickey and the last receipt. Nothing is posted.

        Raises:
            MeterError: GET /gw or GET /metervalue failed.
        """
        meter = self._meter
        gateway = await meter.gw(deadline)
        await meter.read(deadline)
        if meter.state.unaccepted or meter.state.value is None:
            return
        if self._serial != meter.state.serial:
            self._serial = meter.state.serial
            self._clock_due, self.tariff_due = True, bool(self._TT)
        self.record_gateway(gateway)
        await self.ask_for_key(deadline)
        await meter.last_receipt(deadline)
        self.initialised = True
        meter.state.needs_reinit = False
        meter.log.recovered("the initialisation")

    def record_gateway(self, gateway: Gateway) -> None:
        """Record from the answer of GET /gw whether the meter has its charge point."""
        meter = self._meter
        if gateway.is_set:
            self.gw_due = False
            self._gw_wanted_s = None
            self._report(gateway.CT, gateway.CI)
            return
        if not self.gw_due:
            meter.log.info("serial %s: powered up, not set up yet", printable(meter.state.serial))
            self._gw_tried_s = None
        self.gw_due = True
        self.tariff_due = bool(self._TT)
        if self._gw_wanted_s is None:
            self._gw_wanted_s = now_s()

    async def ask_for_key(self, deadline: Deadline) -> None:
        """Read the public key and publish it if it is new. A failure is logged; the key is requested again later."""
        meter = self._meter
        self._key_tried_s = now_s()
        try:
            answer = await meter.client.publickey(timeout_s=deadline.left_s)
            # In a thread, because the first call may import cryptography, which takes a while.
            key = await asyncio.get_running_loop().run_in_executor(None, ocmf.public_key_der_hex, answer.PK)
        except (MeterError, ReceiptError) as error:
            meter.log.failure("the public key", "no public key: %s", getattr(error, "brief", error))
            return
        meter.log.recovered("the public key")
        if key != meter.state.public_key:
            if meter.state.public_key:
                meter.log.error("the meter's public key changed; receipts signed from now on need the new one")
            meter.state.public_key = key
            meter.station.publish_public_key(key)

    @property
    def key_wanted(self) -> bool:
        """Whether it is time to request the public key again."""
        state = self._meter.state
        return not state.public_key and not state.wrong and seconds_since(self._key_tried_s) >= TRIES_EVERY_S

    # --- sending ---

    @property
    def anything_due(self) -> bool:
        """Whether `send_due` would send something."""
        if not self._meter.may_be_configured or not self.initialised:
            return False
        if self.gw_due:
            return not self.waits_for_clock and seconds_since(self._gw_tried_s) >= TRIES_EVERY_S
        return (self.tariff_due and seconds_since(self._tariff_tried_s) >= TRIES_EVERY_S) or self._clock_wanted()

    async def send_due(self, deadline: Deadline) -> None:
        """Send what is due, if nothing runs. A failure is logged, and the request stays due."""
        if not self._meter.may_be_configured or not self.initialised:
            return
        if self.gw_due:
            await self.send_gw(deadline)
        if self.gw_due:
            return
        if self.tariff_due:
            await self.send_tariff(deadline)
        if self._clock_wanted():
            await self.send_clock(deadline)

    async def send_gw(self, deadline: Deadline) -> bool:
        """POST /gw: charge point and clock. Returns whether the meter accepted them, which proves a power-up."""
        meter, settings = self._meter, self._meter.settings
        if self.waits_for_clock:
            what = "the host's clock says %s: POST /gw waits until it is set"
            meter.log.failure("the host's clock", what, meter.clock.now().date())
            meter.why = "POST /gw waits until the host's clock is set"
            return False
        self._gw_tried_s = now_s()
        is_set = meter.clock.is_set
        try:
            TM = self._zone.write(meter.clock.now())
            await meter.client.set_gw(settings.CT, settings.CI, TM, timeout_s=deadline.left_s)
        except MeterError as error:
            meter.why = str(error)
            if isinstance(error, RefusedError) and not error.may_have_acted:
                await self._gw_was_refused(error, deadline)
            else:
                meter.log.failure("POST /gw", "not set up: %s", error.brief)
            return False
        meter.ledger.on_power_up(now_s())
        self._clock_is_set(is_right=is_set)
        self.gw_due = False
        self._gw_wanted_s = None
        meter.log.recovered("POST /gw")
        meter.log.recovered("the host's clock")
        self._reported = settings.CT, settings.CI
        if meter.state.gateway is not None:
            meter.state.gateway = replace(meter.state.gateway, CT=settings.CT, CI=settings.CI)
        meter.log.info("set up: CT %s, CI %s", settings.CT, settings.CI)
        if not is_set:
            what = "set up with the host's clock at %s; the meter's clock is corrected once the host's is set"
            meter.log.warning(what, meter.clock.now().date())
        return True

    async def _gw_was_refused(self, error: RefusedError, deadline: Deadline) -> None:
        meter, settings = self._meter, self._meter.settings
        meter.log.failure(
            "POST /gw",
            "%s. CT and CI in the meter are empty; CT %s and CI %s are configured. Power-cycle the meter so that they "
            "can be set",
            error.brief,
            settings.CT,
            settings.CI,
        )
        if self._clock_wanted() and meter.may_be_configured:
            await self.send_clock(deadline)

    def _report(self, CT: str, CI: str) -> None:
        """Log once which CT and CI are frozen in the meter, as a warning if they differ from the configuration."""
        meter, settings = self._meter, self._meter.settings
        if self._reported == (CT, CI):
            return
        self._reported = CT, CI
        if (CT, CI) == (settings.CT, settings.CI):
            meter.log.info("already set up: CT %s, CI %s", printable(CT), printable(CI))
        else:
            meter.log.warning(
                "CT and CI are frozen in the meter as CT %s and CI %s, but CT %s and CI %s are configured. Power-cycle "
                "the meter so that they can be set",
                printable(CT),
                printable(CI),
                settings.CT,
                settings.CI,
            )

    @property
    def waits_for_clock(self) -> bool:
        """Whether POST /gw still waits for the host's clock to be set."""
        return not self._meter.clock.is_set and seconds_since(self._gw_wanted_s) < GW_WAITS_FOR_CLOCK_S

    def _clock_wanted(self) -> bool:
        if self._meter.clock.was_stepped():
            self._clock_due, self._clock_tried_s = True, None
        if not self._meter.clock.is_set or seconds_since(self._clock_tried_s) < CLOCK_TRIES_EVERY_S:
            return False
        off = self._meter.state.clock_off
        is_off = off is not None and abs(off) > CLOCK_TOLERANCE
        interval_s = self._meter.settings.datetime_resync_interval * 3600
        return self._clock_due or is_off or seconds_since(self._clock_set_s) >= interval_s

    def is_clock_off(self, meters: datetime | None) -> bool:
        """Return whether the meter's time, from GET /gw, differs from the host's. False if the host's is not set."""
        clock = self._meter.clock
        return meters is not None and clock.is_set and abs(meters - clock.now()) > CLOCK_TOLERANCE

    async def send_clock(self, deadline: Deadline) -> None:
        """POST /datetime. A failure is logged."""
        meter = self._meter
        self._clock_tried_s = now_s()
        try:
            await meter.client.set_datetime(self._zone.write(meter.clock.now()), timeout_s=deadline.left_s)
        except MeterError as error:
            meter.log.failure("setting the clock", "the clock was not set: %s", error.brief)
            return
        meter.log.recovered("setting the clock")
        self._clock_is_set(is_right=True)

    def _clock_is_set(self, *, is_right: bool) -> None:
        self._meter.state.clock_was_set()
        self._clock_due = not is_right
        self._clock_set_s = now_s()
        self._clock_tried_s = self._clock_set_s if is_right else None

    async def send_tariff(self, deadline: Deadline) -> None:
        """POST /tariff TT_initial. A failure is logged."""
        meter = self._meter
        self._tariff_tried_s = now_s()
        try:
            await meter.client.set_tariff(self._TT, timeout_s=deadline.left_s)
        except MeterError as error:
            meter.log.failure("the tariff text", "the tariff text was not set: %s", error.brief)
            # The text stays due unless it was plainly refused. It may be set twice while nothing runs.
            if not isinstance(error, RefusedError) or error.may_have_acted:
                return
        else:
            meter.log.recovered("the tariff text")
        self.tariff_due = False

    def tariff_was_changed(self) -> None:
        """Note that a transaction sets its own tariff text: TT_initial is due again after it."""
        self.tariff_due = bool(self._TT)
        self._tariff_tried_s = None


def changed_text(key: str, given: str, signed: str) -> str:
    """Return a log line which says that a tariff text is signed in another form than it was given."""
    return (
        f"{key} was changed so that all receipt readers show the same text: given {printable(given, limit=300)!r}, "
        f"signed {printable(signed, limit=300)!r}"
    )
