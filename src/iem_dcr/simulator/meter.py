"""The simulated meter: give it a request, get its answer. No socket, no task, no clock of its own.

Whatever it is asked, it first does what was due by that moment. Its registers, its answers and the events of its
transactions are therefore the same however often it is asked.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.simulator import nodes
from iem_dcr.simulator.energy import Registers, charging
from iem_dcr.simulator.faults import FaultPlan
from iem_dcr.simulator.options import SimulatorOptions
from iem_dcr.simulator.signing import public_key_text
from iem_dcr.simulator.state import EPSILON_S, MeterState

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec

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
        self._power_up_at_s: float | None = None
        self._reachable_at_s = 0.0

    def handle(self, method: str, path: str, body: bytes = b"") -> nodes.Answer:
        """Act on a request to a path like ``/counter/v1/ocmf/metervalue``.

        Raises:
            ConnectionRefusedError: the meter is without power or boots.
        """
        if self.unreachable_for_s > 0:
            raise ConnectionRefusedError("the simulated meter is without power")
        answer = nodes.answer(self._state, method, path, body, self._advance())
        self.note(method, nodes.node_of(path), answer.status, acted=answer.status < 300)
        return answer

    def note(self, method: str, node: str, status: int | None, *, acted: bool) -> None:
        """Log a request that did not reach `handle`."""
        self.requests.append(Request(method, node, status, acted))
        self.request_counts[method, node] += 1

    # --- what it is like now ---

    @property
    def state(self) -> MeterState:
        """What the meter knows, as it is now."""
        self._advance()
        return self._state

    @property
    def options(self) -> SimulatorOptions:
        """The options in force."""
        return self._state.options

    @property
    def unreachable_for_s(self) -> float:
        """How long it will not answer; 0 when it does."""
        left_s = self._reachable_at_s - self._advance()
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
        return self._state.key.public_key()

    @property
    def registers(self) -> Registers:
        """The total registers in Wh."""
        return self._state.energy.registers(self._advance())

    def as_json(self) -> dict[str, object]:
        """Return the whole state as JSON types."""
        now_s, state = self._advance(), self._state
        current_a, voltage_v = state.energy.at(now_s)
        return {
            "unreachable_for_s": self.unreachable_for_s, "TM": state.time_text(now_s),
            "gateway": state.gateway, "user": state.user, "TT": state.tariff_text,
            "running": state.opened is not None, "signing": bool(state.unsigned),
            "begun": state.begun, "ended": state.ended,
            "current_a": current_a, "voltage_v": voltage_v, **state.energy.registers(now_s)._asdict(),
            "signed": [asdict(record) for record in state.signed], "public_key": public_key_text(state.key, "der"),
            "faults": self.faults.as_json(), "requests": [asdict(request) for request in self.requests],
            "options": state.options.as_json(),
        }  # fmt: skip

    # --- what is done to it by hand ---

    def configure(self, **changes: Any) -> None:  # noqa: ANN401  the options check their values
        """Change options while the meter runs; all of them, or none.

        A new load or signing delay holds from the next transaction on, a new ``unset_time`` from the next power-up, a
        new key, serial and pagination from the next record, a new register from now.

        Raises:
            ConfigError: a name is no option, or a value does not fit.
        """
        self._state.configure(changes, self._advance())

    def shift_clock(self, by_s: float) -> None:
        """Make the meter's clock wrong by so many seconds, until it is set again."""
        self.state.clock.shift(by_s)

    def set_load(self, current_a: float, voltage_v: float) -> None:
        """Let a constant load flow from now on, transaction or not.

        It survives a power cycle, and until it is cleared no transaction brings a charging curve of its own.
        """
        self._state.set_manual_load(charging(current_a, voltage_v), self._advance())

    def clear_load(self) -> None:
        """Switch off whatever flows: a load set by hand, or the charging curve of the running transaction."""
        self._state.set_manual_load(None, self._advance())

    def power_cycle(self, off_s: float = 2.0, boot_s: float = 3.0) -> None:
        """Cut the power now, give it back after ``off_s``, answer again ``boot_s`` after that.

        The clock restarts, and an open transaction meets its fate (``open_at_power_cut``), when power comes back.
        """
        now_s = self._advance()
        if self._power_up_at_s is None:
            self._state.cut_power(now_s)
        self._power_up_at_s = now_s + off_s
        self._reachable_at_s = now_s + off_s + boot_s
        for listener in tuple(self.power_listeners):
            listener()

    def _advance(self) -> float:
        """Bring everything to this moment, and return it: what is due comes before whatever is asked for."""
        now_s = self._monotonic()
        if self._power_up_at_s is not None:
            if now_s + EPSILON_S < self._power_up_at_s:
                return now_s
            power_up_at_s, self._power_up_at_s = self._power_up_at_s, None
            self._state.power_up(power_up_at_s)
        self._state.advance(now_s)
        return now_s
