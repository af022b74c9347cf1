"""The simulated meter: give it a request, get its answer. No socket, no task, no clock of its own."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.simulator import energy
from iem_dcr.simulator.faults import FaultPlan
from iem_dcr.simulator.live_values import LiveValues
from iem_dcr.simulator.nodes import Nodes, node_of
from iem_dcr.simulator.options import LARGEST_LOAD, LONGEST_OFF_S, LONGEST_SKEW_S, SimulatorOptions
from iem_dcr.simulator.state import EPSILON_S, MeterState
from iem_dcr.simulator.values import number_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric import ec

    from iem_dcr.simulator.nodes import Answer
    from iem_dcr.simulator.signing import SignedRecord

_REQUESTS_KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """A request that came in; ``status`` is None where it was lost before the meter could act."""

    method: str
    node: str
    status: int | None
    acted: bool


class SimulatedMeter:
    """A stateful IEM-DCR, true to every known fact and with a knob for every unknown one.

    Attributes:
        faults: what happens to coming requests; a server looks here, `handle` does not.
        requests: the last 1000 requests, oldest first.
        request_counts: how often each (method, node) was asked.
        power_listeners: called at each power cut, when the meter is already unreachable.
    """

    def __init__(self, options: SimulatorOptions | None = None, *, monotonic: Callable[[], float]) -> None:
        self.faults = FaultPlan()
        self.requests: deque[Request] = deque(maxlen=_REQUESTS_KEPT)
        self.request_counts: Counter[tuple[str, str]] = Counter()
        self.power_listeners: list[Callable[[], None]] = []
        self._monotonic = monotonic
        self._state = MeterState(options or SimulatorOptions(), monotonic())
        self._values = LiveValues(monotonic())
        self._nodes = Nodes(self._state, self._values)
        self._power_up_at_s: float | None = None
        self._reachable_at_s = 0.0

    def handle(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Act on a request.

        Args:
            method: HTTP method in upper case.
            path: path without query, ``/counter/v1/ocmf/metervalue``.
            body: the body's bytes.

        Raises:
            ConnectionRefusedError: the meter is without power or boots.
        """
        now_s = self._advance()
        if self.unreachable_for_s > 0:
            raise ConnectionRefusedError("the simulated meter is without power")
        answer = self._nodes.answer(method, path, body, now_s)
        self.note(method, node_of(path), answer.status, acted=answer.status < 300)
        return answer

    def note(self, method: str, node: str, status: int | None, *, acted: bool) -> None:
        """Log a request that did not reach `handle`."""
        self.requests.append(Request(method, node, status, acted))
        self.request_counts[method, node] += 1

    @property
    def state(self) -> MeterState:
        """What the meter knows, as it is now."""
        self._advance()
        return self._state

    @property
    def options(self) -> SimulatorOptions:
        """The options in force."""
        return self._state.options

    def configure(self, **changes: Any) -> None:  # noqa: ANN401  the options check their values
        """Change options while the meter runs; all of them, or none.

        A new load or signing delay holds from the next transaction on, a new ``unset_time`` from the next power-up, a
        new key, serial and pagination from the next record, a new register from now.

        Raises:
            ConfigError: a name is no option, or a value does not fit.
        """
        now_s = self._advance()
        self._state.configure(self._state.options.changed(changes), set(changes), now_s)

    def shift_clock(self, by_s: float) -> None:
        """Make the meter's clock wrong by so many seconds, until it is set again."""
        number_in("clock_skew_s", by_s, -LONGEST_SKEW_S, LONGEST_SKEW_S)
        self._advance()
        self._state.clock.shift(by_s)

    def set_load(self, current_a: float, voltage_v: float) -> None:
        """Let a constant load flow from now on, transaction or not.

        It survives a power cycle, and until it is cleared no transaction brings a charging curve of its own.

        Raises:
            ConfigError: a value is no number or out of all proportion, or the voltage is negative.
        """
        number_in("current_a", current_a, -LARGEST_LOAD, LARGEST_LOAD)
        number_in("voltage_v", voltage_v, 0, LARGEST_LOAD)
        self._state.set_manual_load(energy.constant(current_a, voltage_v), self._advance())

    def clear_load(self) -> None:
        """Switch off whatever flows: a load set by hand, or the charging curve of the running transaction."""
        self._state.set_manual_load(None, self._advance())

    def power_cycle(self, off_s: float = 2.0, boot_s: float = 3.0) -> None:
        """Cut the power now, give it back after ``off_s``, answer again ``boot_s`` after that.

        The clock restarts, and an open transaction meets its fate (``open_at_power_cut``), when power comes back.

        Raises:
            ConfigError: a time is negative or longer than a day.
        """
        number_in("off_s", off_s, 0, LONGEST_OFF_S)
        number_in("boot_s", boot_s, 0, LONGEST_OFF_S)
        now_s = self._advance()
        if self._power_up_at_s is None:
            self._state.cut_power(now_s)
        self._power_up_at_s = now_s + off_s
        self._reachable_at_s = now_s + off_s + boot_s
        for listener in tuple(self.power_listeners):
            listener()

    @property
    def unreachable_for_s(self) -> float:
        """How long it will not answer; 0 when it does."""
        self._advance()
        left_s = self._reachable_at_s - self._monotonic()
        return left_s if self._power_up_at_s is not None or left_s > EPSILON_S else 0.0

    @property
    def signed(self) -> list[SignedRecord]:
        """All records it has signed until now, oldest first."""
        return list(self.state.signed)

    @property
    def running(self) -> bool:
        """Whether a transaction runs, whatever XT says of it."""
        return self.state.opened is not None

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key its receipts verify with."""
        return self._state.signer.public_key

    @property
    def registers(self) -> energy.Registers:
        """The total registers in Wh."""
        return self._state.energy.registers(self._advance())

    def as_json(self) -> Mapping[str, object]:
        """Return the whole state as JSON types."""
        now_s = self._advance()
        state = self._state
        current_a, voltage_v = state.energy.at(now_s)
        registers = state.energy.registers(now_s)
        return {
            "unreachable_for_s": self.unreachable_for_s,
            "TM": state.time_text(now_s),
            "gateway": asdict(state.gateway) if state.gateway else None,
            "user": asdict(state.user) if state.user else None,
            "TT": state.tariff_text,
            "running": state.opened is not None,
            "signing": bool(state.unsigned),
            "begun": state.begun,
            "ended": state.ended,
            "current_a": current_a,
            "voltage_v": voltage_v,
            "import_wh": int(registers.import_wh),
            "export_wh": int(registers.export_wh),
            "signed": [
                asdict(record) | {"import_wh": int(record.import_wh), "export_wh": int(record.export_wh)}
                for record in state.signed
            ],
            "public_key": state.signer.public_key_text("der"),
            "faults": self.faults.as_json(),
            "requests": [asdict(request) for request in self.requests],
            "options": state.options.as_json(),
        }

    def _advance(self) -> float:
        """Bring everything to this moment: what is due comes before whatever is asked for."""
        now_s = self._monotonic()
        if self._power_up_at_s is not None:
            if now_s + EPSILON_S < self._power_up_at_s:
                return now_s
            self._state.power_up(self._power_up_at_s)
            self._values.power_up(self._power_up_at_s)
            self._power_up_at_s = None
        self._values.advance(self._state, now_s)
        self._state.sign_due(now_s)
        return now_s
