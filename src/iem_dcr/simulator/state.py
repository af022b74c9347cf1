"""The meter's state and what changes it: begin, end, signing, power cut and power-up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from iem_dcr.simulator import energy, record
from iem_dcr.simulator.answer import RefusalError
from iem_dcr.simulator.clock import MeterClock
from iem_dcr.simulator.record import ClosedRecord, Gateway, OpenRecord, Reading, SignedRecord, User
from iem_dcr.simulator.signing import Signer

if TYPE_CHECKING:
    from iem_dcr.simulator.options import SimulatorOptions

EPSILON_S = 1e-6
"""A timer of an event loop may fire this much too early."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A record whose signature is not there yet; ``late`` is one the meter closes some time after a power-up."""

    record: ClosedRecord
    due_s: float
    late: bool = False


class MeterState:
    """Everything the meter knows. Methods get the monotonic time of the caller and refuse before they change anything.

    Attributes:
        gateway: what POST /gw set since the last power-up, or None.
        user: what POST /user set for the next transaction, or None.
        tariff_text: the text on the display.
        opened: the transaction that runs.
        unsigned: the record being signed.
        signed: all records signed, in order.
        last: what /transaction answers.
        receipt: what GET /receipt answers.
        begun: transactions begun.
        ended: transactions ended by an accepted E.
    """

    def __init__(self, options: SimulatorOptions, now_s: float) -> None:
        self.options = options
        self.signer = Signer(options.private_key)
        self.energy = energy.EnergyPath(options.import_wh, options.export_wh, now_s)
        self.clock = MeterClock(options.clock_at_power_up, now_s)
        self.gateway: Gateway | None = None
        self.user: User | None = None
        self.tariff_text = ""
        self.opened: OpenRecord | None = None
        self.unsigned: Unsigned | None = None
        self.signed: list[SignedRecord] = []
        self.last: SignedRecord | None = None
        self.receipt: SignedRecord | None = None
        self.begun = 0
        self.ended = 0
        self._pages = options.pagination
        self._manual_load: energy.Load | None = None
        self._transaction_registers = energy.ZERO
        self._at_cut: tuple[Reading, Gateway] | None = None

    @property
    def error_flags(self) -> str:
        """EF: as chosen, else "t" while the clock was not set (device/metervalue.json: EF "t" with sync flag U)."""
        if self.options.EF is not None:
            return self.options.EF
        return "t" if self.clock.flag == "U" else ""

    def time_text(self, now_s: float) -> str:
        """TM as it is in every answer."""
        return self.clock.text(now_s, with_flag=self.options.sync_flag)

    def transaction_registers(self, now_s: float) -> energy.Registers:
        """The registers of the transaction; while none runs those of the one before."""
        if self.opened is None:
            return self._transaction_registers
        return self.energy.registers(now_s).minus(self.opened.begin.registers)

    def set_gateway(self, gateway: Gateway) -> None:
        """Take CT and CI; once per power-up."""
        if self.gateway is not None:
            raise RefusalError(428, "CT and CI were set since power-up")
        self.gateway = gateway

    def set_user(self, user: User) -> None:
        """Take the user of the next transaction."""
        self.user = user
        if user.TT is not None and self.options.user_tariff_sticks:
            self.tariff_text = user.TT

    def begin(self, now_s: float) -> None:
        """Begin a transaction."""
        if self.unsigned is not None:
            raise RefusalError(428, "a record is being signed")
        if self.opened is not None:
            self._repeated("a transaction is running")
            return
        self._refuse_under_load(now_s)
        if self.options.user_required and self.user is None:
            raise RefusalError(428, "no user was set")
        user = self.user or User()
        text = self.tariff_text
        if user.TT is not None and not self.options.user_tariff_sticks:
            text = user.TT
        self.opened = OpenRecord(self._reading("B", now_s), user, text)
        self.user = None
        self.begun += 1
        if self._manual_load is None:
            options = self.options
            load = energy.charging(options.current_a, options.voltage_v, options.charge_s, after_s=options.load_delay_s)
            self.energy.connect(load, now_s)

    def end(self, now_s: float) -> None:
        """End the transaction; the signature comes ``signing_delay_s`` later."""
        if self.opened is None:
            self._repeated("no transaction is running")
            return
        self._refuse_under_load(now_s)
        closed = self._close(self.opened, self._reading("E", now_s), self.gateway or Gateway())
        self.unsigned = Unsigned(closed, now_s + self.options.signing_delay_s)
        self.ended += 1
        if self._manual_load is None:
            self.energy.connect(energy.NOTHING, now_s)

    def set_manual_load(self, load: energy.Load | None, now_s: float) -> None:
        """Connect a load in the place of whatever flows; None switches everything off.

        Without power nothing is metered: the load is connected at power-up.
        """
        self._manual_load = load
        if self._at_cut is None:
            self.energy.connect(load or energy.NOTHING, now_s)

    def sign_due(self, now_s: float) -> None:
        """Sign the record whose time has come."""
        if self.unsigned is not None and now_s + EPSILON_S >= self.unsigned.due_s:
            self._sign(self.unsigned.record)

    def cut_power(self, now_s: float) -> None:
        """Lose power: what is metered ends here, and so does a session's load."""
        self._at_cut = self._reading("P", now_s), self.gateway or Gateway()
        self.energy.connect(energy.NOTHING, now_s)

    def power_up(self, now_s: float) -> None:
        """Come back: clock wrong, charge point and user gone, and the open transaction as ``open_at_power_cut``."""
        self.clock = MeterClock(self.options.clock_at_power_up, now_s)
        self.gateway, self.user, self.tariff_text = None, None, ""
        self.energy.connect(self._manual_load or energy.NOTHING, now_s)
        if not self.options.receipt_after_power_up:
            self.receipt = None
        if self.opened is not None:
            self._after_power_cut(self.opened, now_s)
        elif self.unsigned is not None:
            due_s = now_s + self.options.late_close_s if self.unsigned.late else now_s
            self.unsigned = replace(self.unsigned, due_s=due_s)
        self._at_cut = None

    def _after_power_cut(self, opened: OpenRecord, now_s: float) -> None:
        policy = self.options.open_at_power_cut
        if policy == "running":
            return
        reading, gateway = self._reading("P", now_s), Gateway()
        if self.options.power_failure_reading == "at-cut" and self._at_cut is not None:
            reading, gateway = self._at_cut
        closed = self._close(opened, reading, gateway)
        if policy == "closed":
            self._sign(closed)
        elif policy == "closed-late":
            self.unsigned = Unsigned(closed, now_s + self.options.late_close_s, late=True)

    def _close(self, opened: OpenRecord, reading: Reading, gateway: Gateway) -> ClosedRecord:
        self._transaction_registers = reading.registers.minus(opened.begin.registers)
        self.opened = None
        return ClosedRecord(opened, reading, gateway)

    def _sign(self, closed: ClosedRecord) -> None:
        self._pages += 1
        self.last = self.receipt = record.signed(closed, self._pages, self.options, self.signer)
        self.signed.append(self.last)
        self.unsigned = None

    def _reading(self, code: str, now_s: float) -> Reading:
        return Reading(self.time_text(now_s), code, self.error_flags, self.options.ST, self.energy.registers(now_s))

    def _repeated(self, reason: str) -> None:
        if self.options.repeated_receipt == "refuse":
            raise RefusalError(428, reason)

    def _refuse_under_load(self, now_s: float) -> None:
        current_a, _ = self.energy.at(now_s)
        if abs(current_a) > self.options.activation_threshold_a:
            raise RefusalError(428, f"current of {current_a:.1f} A is above the activation threshold")
