"""The meter's state and what changes it: begin, end, signing, power cut and power-up.

A transaction is open, then being signed, then signed. Or it is lost. Each step is reported to ``watchers`` as an
`Event`, so that a test of a driver knows what the meter really did. The caller passes the time. A method that refuses
changes nothing. `live_values` and `nodes` decide what a client sees of the state, and when.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.simulator.clock import MeterClock
from iem_dcr.simulator.energy import EnergyPath, Load, Registers, charging
from iem_dcr.simulator.live_values import LiveValues
from iem_dcr.simulator.signing import NO_GATEWAY, NO_USER, ClosedRecord, OpenRecord, Reading, private_key, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from iem_dcr.simulator.options import SimulatorOptions
    from iem_dcr.simulator.signing import SignedRecord

EPSILON_S: Final = 1e-6
"""An event loop may fire a timer early by this much."""


class RefusalError(Exception):
    """The meter refuses a request and has changed nothing. ``status`` None means ``refusal_status``."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Event:
    """A step of a transaction: "begun", "closed", "signed" (``text`` is the tuple), or "lost" (never signed)."""

    kind: str
    transaction: int
    text: str = ""


class MeterState:
    """The state of the meter.

    Attributes:
        live: what /metervalue shows of the state.
        gateway: CT and CI of the POST /gw since the last power-up, or None.
        user: the user that POST /user set for the next transaction, or None.
        tariff_text: the text on the display.
        opened: the running transaction, or None.
        unsigned: the transactions being signed, oldest first.
        signed: all signed records, oldest first.
        begun: number of transactions begun.
        ended: number of transactions ended by an accepted E.
        ended_s: time of the last accepted E since the last power-up, or None.
        survived_cut: whether the running transaction began before the last power-up.
        receipt: the record that GET /receipt returns.
        watchers: called with each `Event`.
    """

    def __init__(self, options: SimulatorOptions, now_s: float) -> None:
        self.options = options
        self.key = private_key(options.private_key)
        self.energy = EnergyPath(Registers(options.import_wh, options.export_wh), now_s)
        self.clock = MeterClock(options.unset_time, now_s)
        self.live = LiveValues(self, now_s)
        self.gateway: Mapping[str, str] | None = None
        self.user: Mapping[str, Any] | None = None
        self.tariff_text = ""
        self.opened: OpenRecord | None = None
        self.ended_s: float | None = None
        self.survived_cut = False
        self.unsigned: deque[ClosedRecord] = deque()
        self.signed: list[SignedRecord] = []
        self.receipt: SignedRecord | None = None
        self.begun = 0
        self.ended = 0
        self.watchers: list[Callable[[Event], None]] = []
        self._page = options.pagination
        self._signed_s = 0.0
        self._manual_load: Load | None = None
        self._transaction_registers = Registers()
        self._at_cut: Reading | None = None

    @property
    def error_flags(self) -> str:
        """EF: the option, else "t" until the clock is set (device/metervalue.json: EF "t" with sync flag U)."""
        if self.options.EF is not None:
            return self.options.EF
        return "t" if self.clock.flag == "U" else ""

    def time_text(self, now_s: float) -> str | None:
        """Return TM as every answer has it, or None if TM is omitted."""
        return self.clock.text(now_s, self.options)

    def transaction_registers(self, now_s: float) -> Registers:
        """Return the energy of the running transaction, or of the last one if none runs."""
        if self.opened is None:
            return self._transaction_registers
        return self.energy.registers(now_s).minus(self.opened.begin.registers)

    def last_signed(self, now_s: float) -> SignedRecord | None:
        """Return the record that /transaction shows: the last one, or for ``transaction_lag_s`` the one before it."""
        lags = now_s + EPSILON_S < self._signed_s + self.options.transaction_lag_s
        shown = self.signed[:-1] if lags else self.signed
        return shown[-1] if shown else None

    # --- changes ---

    def advance(self, now_s: float) -> None:
        """Take the snapshot and sign the records that are due."""
        self.live.advance(now_s)
        while self.unsigned and now_s + EPSILON_S >= self.unsigned[0].due_s:
            record = self.unsigned.popleft()
            self._page += 1
            self._signed_s = record.due_s
            self.receipt = signed(self.key, record, self._page, self.options)
            self.signed.append(self.receipt)
            self._tell("signed", record.opened, self.receipt.text)

    def configure(self, changes: dict[str, Any], now_s: float) -> None:
        """Change options. A new key or pagination takes effect with the next record, a register immediately."""
        self.options = self.options.changed(changes)
        if "private_key" in changes:
            self.key = private_key(self.options.private_key)
        if "pagination" in changes:
            self._page = self.options.pagination
        for name in changes.keys() & {"import_wh", "export_wh"}:
            self.energy.set_register(name, getattr(self.options, name), now_s)

    def set_gateway(self, gateway: Mapping[str, str]) -> None:
        """Set CT and CI, which is possible once per power-up."""
        if self.gateway is not None:
            raise RefusalError("CT and CI are already set since power-up")
        self.gateway = gateway

    def set_user(self, user: Mapping[str, Any]) -> None:
        """Set the user of the next transaction."""
        if self.opened is not None and self.options.user_while_running == "refuse":
            raise RefusalError("a transaction is running")
        self.user = user
        if self.options.user_tariff_sticks:
            self.tariff_text = user.get("TT", self.tariff_text)

    def begin(self, now_s: float) -> None:
        """Begin a transaction."""
        options = self.options
        if any(each.late for each in self.unsigned) or (self.unsigned and not options.begin_spoils_signature):
            raise RefusalError("a record is being signed")
        if self.opened is not None and options.second_begin == "refuse":
            raise RefusalError("a transaction is running")
        if self.opened is not None and options.second_begin == "ignore":
            return
        self._refuse_under_load(now_s)
        if options.user_required and self.user is None:
            raise RefusalError("no user was set")
        while self.unsigned:
            self._tell("lost", self.unsigned.popleft().opened)
        if self.opened is not None and options.second_begin == "restart":
            self._tell("lost", self.opened)
        elif self.opened is not None:
            self._close(self.opened, self._reading("E", now_s), now_s + options.signing_delay_s)
        user, self.user = self.user or NO_USER, None
        text = self.tariff_text if options.user_tariff_sticks else user.get("TT", self.tariff_text)
        self.begun += 1
        self.opened = OpenRecord(self.begun, now_s, self._reading("B", now_s), user, text)
        self.survived_cut = False
        self._tell("begun", self.opened)
        if self._manual_load is None:
            load = charging(options.current_a, options.voltage_v, options.charge_s, after_s=options.load_delay_s)
            self.energy.connect(load, now_s)

    def end(self, now_s: float) -> None:
        """End the transaction. Its record is signed ``signing_delay_s`` later."""
        if self.opened is None:
            if self.options.idle_end == "refuse":
                raise RefusalError("no transaction is running")
            return
        self._refuse_under_load(now_s)
        self._close(self.opened, self._reading("E", now_s), now_s + self.options.signing_delay_s)
        self.ended += 1
        self.ended_s = now_s
        if self._manual_load is None:
            self.energy.connect(Load(), now_s)

    def set_manual_load(self, load: Load | None, now_s: float) -> None:
        """Replace the present load; None switches it off.

        Without power nothing is metered, so the load is connected at power-up.
        """
        self._manual_load = load
        if self._at_cut is None:
            self.energy.connect(load or Load(), now_s)

    def cut_power(self, now_s: float) -> None:
        """Lose power: metering and the load of a session end."""
        self._at_cut = self._reading("P", now_s)
        self.energy.connect(Load(), now_s)

    def power_up(self, now_s: float) -> None:
        """Power up: reset clock, charge point and user. ``open_at_power_cut`` decides on the open transaction."""
        options = self.options
        self.clock = MeterClock(options.unset_time, now_s)
        self.live.power_up(now_s)
        self.gateway, self.user, self.tariff_text, self.ended_s = None, None, "", None
        self.energy.connect(self._manual_load or Load(), now_s)
        if not options.receipt_after_power_up:
            self.receipt = None
        if options.PG == "restarts":
            self._page = 0
        late_s = now_s + options.late_close_s
        self.unsigned = deque(replace(each, due_s=late_s if each.late else now_s) for each in self.unsigned)
        fate = options.open_at_power_cut
        self.survived_cut = self.opened is not None and fate == "running"
        if self.opened is not None and fate == "lost":
            self._tell("lost", self.opened)
            self.opened = None
        elif self.opened is not None and fate != "running":
            at_cut = self._at_cut if options.power_failure_reading == "at-cut" else None
            is_late = fate == "closed-late"
            self._close(self.opened, at_cut or self._reading("P", now_s), late_s if is_late else now_s, late=is_late)
        self._at_cut = None
        self.advance(now_s)

    def _close(self, opened: OpenRecord, end: Reading, due_s: float, *, late: bool = False) -> None:
        self._transaction_registers = end.registers.minus(opened.begin.registers)
        self.opened = None
        self.unsigned.append(ClosedRecord(opened, end, due_s, late))
        self._tell("closed", opened)

    def _reading(self, code: str, now_s: float) -> Reading:
        text = self.time_text(now_s)
        head = {} if text is None else {"TM": text}
        head |= {"TX": code, "EF": self.error_flags, "ST": self.options.ST}
        return Reading(head, self.energy.registers(now_s), self.gateway or NO_GATEWAY)

    def _refuse_under_load(self, now_s: float) -> None:
        current_a, _ = self.energy.at(now_s)
        if abs(current_a) > self.options.activation_threshold_a:
            raise RefusalError(f"current of {current_a:.1f} A is above the activation threshold")

    def _tell(self, kind: str, opened: OpenRecord, text: str = "") -> None:
        for watcher in tuple(self.watchers):
            watcher(Event(kind, opened.number, text))
