"""The meter's state and what changes it: begin, end, signing, power cut and power-up.

A transaction is open, then being signed, then signed; or it is lost. Each of these steps is told to ``watchers`` as an
`Event`, so that whoever judges a driver knows what the meter really did. The moment comes in from outside, and a method
refuses before it changes anything. What the nodes show of the state, and when, is for `live_values` and `nodes`.
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
"""A timer of an event loop may fire this much too early."""


class RefusalError(Exception):
    """The meter does not do what it was asked; nothing has changed in it. ``status`` None: its usual one."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Event:
    """A step of a transaction: "begun", "closed", "signed" with its tuple, or "lost": it will never be signed."""

    kind: str
    transaction: int
    text: str = ""


class MeterState:
    """Everything the meter knows.

    Attributes:
        live: what /metervalue shows of it.
        gateway, user: what POST /gw said since the last power-up and POST /user for the next transaction, or None.
        tariff_text: the text on the display.
        opened, unsigned, signed: the transaction that runs, those being signed, and all that were; in order.
        begun, ended: how many transactions were begun, and ended by an accepted E.
        ended_s: when that last was; None from a power-up on.
        survived_cut: the open transaction began before the last power-up.
        receipt: what GET /receipt answers.
        watchers: are told of each `Event`.
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
        """EF: as chosen, else "t" while the clock was not set (device/metervalue.json: EF "t" with sync flag U)."""
        if self.options.EF is not None:
            return self.options.EF
        return "t" if self.clock.flag == "U" else ""

    def time_text(self, now_s: float) -> str | None:
        """TM as it is in every answer; None where it is left out."""
        return self.clock.text(now_s, self.options)

    def transaction_registers(self, now_s: float) -> Registers:
        """The registers of the transaction; while none runs those of the one before."""
        if self.opened is None:
            return self._transaction_registers
        return self.energy.registers(now_s).minus(self.opened.begin.registers)

    def last_signed(self, now_s: float) -> SignedRecord | None:
        """What /transaction answers: the last record, or the one before for ``transaction_lag_s``."""
        lags = now_s + EPSILON_S < self._signed_s + self.options.transaction_lag_s
        shown = self.signed[:-1] if lags else self.signed
        return shown[-1] if shown else None

    # --- what changes it ---

    def advance(self, now_s: float) -> None:
        """Do what is due by now."""
        self.live.advance(now_s)
        while self.unsigned and now_s + EPSILON_S >= self.unsigned[0].due_s:
            record = self.unsigned.popleft()
            self._page += 1
            self._signed_s = record.due_s
            self.receipt = signed(self.key, record, self._page, self.options)
            self.signed.append(self.receipt)
            self._tell("signed", record.opened, self.receipt.text)

    def configure(self, changes: dict[str, Any], now_s: float) -> None:
        """Change options: a new key and pagination hold from the next record, a register from now."""
        self.options = self.options.changed(changes)
        if "private_key" in changes:
            self.key = private_key(self.options.private_key)
        if "pagination" in changes:
            self._page = self.options.pagination
        for name in changes.keys() & {"import_wh", "export_wh"}:
            self.energy.set_register(name, getattr(self.options, name), now_s)

    def set_gateway(self, gateway: Mapping[str, str]) -> None:
        """Take CT and CI; once per power-up."""
        if self.gateway is not None:
            raise RefusalError("CT and CI were set since power-up")
        self.gateway = gateway

    def set_user(self, user: Mapping[str, Any]) -> None:
        """Take the user of the next transaction."""
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
        """End the transaction; the signature comes ``signing_delay_s`` later."""
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
        """Connect a load in the place of whatever flows; None switches everything off.

        Without power nothing is metered: the load is connected at power-up.
        """
        self._manual_load = load
        if self._at_cut is None:
            self.energy.connect(load or Load(), now_s)

    def cut_power(self, now_s: float) -> None:
        """Lose power: what is metered ends here, and so does a session's load."""
        self._at_cut = self._reading("P", now_s)
        self.energy.connect(Load(), now_s)

    def power_up(self, now_s: float) -> None:
        """Come back: clock wrong, charge point and user gone, and the open transaction as ``open_at_power_cut``."""
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
