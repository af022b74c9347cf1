"""The simulated meter: it takes a request and returns the answer. It has no socket, no task and no clock.

Before every request and every query it performs all actions that are due. Its registers, answers and events therefore
do not depend on how often it is asked.
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
    """A request that arrived. ``status`` is None if the request got no answer and the meter did not act."""

    method: str
    node: str
    status: int | None
    acted: bool


class SimulatedMeter:
    """A stateful IEM-DCR. It behaves as known of the real meter and has a knob for everything unknown.

    Attributes:
        faults: faults for the next requests; the server applies them, `handle` ignores them.
        requests: the last 1000 requests, oldest first.
        request_counts: number of requests for each (method, node).
        power_listeners: called at each power cut, after the meter has become unreachable.
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
        """Handle a request to a path such as ``/counter/v1/ocmf/metervalue``.

        Raises:
            ConnectionRefusedError: the meter has no power or is booting.
        """
        if self.unreachable_for_s > 0:
            raise ConnectionRefusedError("the simulated meter is without power")
        answer = nodes.answer(self._state, method, path, body, self._advance())
        self.note(method, nodes.node_of(path), answer.status, acted=answer.status < 300)
        return answer

    def note(self, method: str, node: str, status: int | None, *, acted: bool) -> None:
        """Add a request to the log; the server calls this for one that did not reach `handle`."""
        self.requests.append(Request(method, node, status, acted))
        self.request_counts[method, node] += 1

    # --- queries ---

    @property
    def state(self) -> MeterState:
        """The state of the meter, up to date."""
        self._advance()
        return self._state

    @property
    def options(self) -> SimulatorOptions:
        """The options in force."""
        return self._state.options

    @property
    def unreachable_for_s(self) -> float:
        """Seconds until the meter answers again; 0 if it answers now."""
        left_s = self._reachable_at_s - self._advance()
        return left_s if self._power_up_at_s is not None or left_s > EPSILON_S else 0.0

    @property
    def signed(self) -> list[SignedRecord]:
        """All signed records, oldest first."""
        return list(self.state.signed)

    @property
    def running(self) -> bool:
        """Whether a transaction runs, independent of what XT shows."""
        return self.state.opened is not None

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public key of its receipts."""
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

    # --- manual control ---

    def configure(self, **changes: Any) -> None:  # noqa: ANN401  the options check their values
        """Change options while the meter runs. One invalid value leaves all options unchanged.

        A new load or signing delay takes effect with the next transaction, a new ``unset_time`` with the next power-up,
        a new key, serial or pagination with the next record. A register changes immediately.

        Raises:
            ConfigError: a name is not an option, or a value is invalid.
        """
        self._state.configure(changes, self._advance())

    def shift_clock(self, by_s: float) -> None:
        """Add an error of ``by_s`` seconds to the meter's clock, until it is set again."""
        self.state.clock.shift(by_s)

    def set_load(self, current_a: float, voltage_v: float) -> None:
        """Connect a constant load from now on, with or without a transaction.

        It survives a power cycle. Until it is cleared, transactions do not start their own charging curve.
        """
        self._state.set_manual_load(charging(current_a, voltage_v), self._advance())

    def clear_load(self) -> None:
        """Switch off the load: a manual one, or the charging curve of the running transaction."""
        self._state.set_manual_load(None, self._advance())

    def power_cycle(self, off_s: float = 2.0, boot_s: float = 3.0) -> None:
        """Cut the power now and restore it after ``off_s`` seconds. The meter answers ``boot_s`` seconds after that.

        When power returns, the clock restarts and ``open_at_power_cut`` decides what happens to an open transaction.
        """
        now_s = self._advance()
        if self._power_up_at_s is None:
            self._state.cut_power(now_s)
        self._power_up_at_s = now_s + off_s
        self._reachable_at_s = now_s + off_s + boot_s
        for listener in tuple(self.power_listeners):
            listener()

    def _advance(self) -> float:
        """Perform everything that is due, and return the present time in seconds."""
        now_s = self._monotonic()
        if self._power_up_at_s is not None:
            if now_s + EPSILON_S < self._power_up_at_s:
                return now_s
            power_up_at_s, self._power_up_at_s = self._power_up_at_s, None
            self._state.power_up(power_up_at_s)
        self._state.advance(now_s)
        return now_s
