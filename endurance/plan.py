"""What happens in a run, made from a seed: the meter, the process, and sessions of steps. A step can be left out."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from endurance import knobs as knob
from endurance.model import MODULE, SERVICE, start_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from iem_dcr.simulator import SimulatorOptions

SESSIONS_IN_A_RUN: Final = 25
CALM: Final = 0.3
"""Share of the sessions in which nothing goes wrong."""

WIRE_FAULTS: Final = ("refuse", "lose-request", "lose-answer", "stall", "reset", "server-error", "garbage",
                      "garbage-http", "wrong-length")  # fmt: skip
NODES: Final = (
    ("*", "*"), ("POST", "/user"), ("POST", "/receipt"), ("GET", "/receipt"), ("GET", "/metervalue"),
    ("GET", "/transaction"), ("POST", "/gw"), ("GET", "/gw"), ("POST", "/datetime"), ("POST", "/tariff"),
)  # fmt: skip
TRAPPED: Final = (
    ("POST", "/user", (0.0, 0.004)), ("POST", "/receipt", (0.0, 0.3, 0.13, 0.13, 0.13)),
    ("GET", "/receipt", (0.0, 0.003)), ("GET", "/transaction", (0.0, 0.003)), ("POST", "/gw", (0.0,)),
    ("GET", "/metervalue", (0.0, 0.003)),
)  # fmt: skip
"""Instants told by the meter's work, and how long after it: after the user, after B, while signing, after E."""
INSTANTS: Final = (
    datetime(2026, 6, 1, 12, tzinfo=UTC),
    datetime(2026, 3, 29, 0, 58, tzinfo=UTC),
    datetime(2026, 10, 25, 0, 58, tzinfo=UTC),
    datetime(2027, 12, 31, 23, 58, tzinfo=UTC),
    datetime(1970, 1, 1, 0, 1, tzinfo=UTC),
)
"""What the host believes the time to be at the beginning: also minutes before summer time begins and ends, and none."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens.

    Attributes:
        at_s: seconds from the beginning of its session.
        what: name of a method of `world.World`.
        detail: what it is called with.
    """

    at_s: float
    what: str
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line of a listing."""
        return f"{self.at_s:6.2f} s  {self.what}" + "".join(f" {name}={value}" for name, value in self.detail.items())


def step(at_s: float, what: str, /, **detail: Any) -> Step:
    """Make a step."""
    return Step(at_s, what, detail)


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """Steps in the order of their times, and how long the session lasts at least."""

    number: int
    length_s: float
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run: what it begins with, and its sessions.

    Attributes:
        seed: it was made from.
        kind: which of our processes drives the meter.
        journal: whether receipts are kept.
        options: of the meter.
        settings: of the driver.
        host: the host's clock at the beginning.
        sessions: in their order.
    """

    seed: int
    kind: str
    journal: bool
    options: SimulatorOptions
    settings: dict[str, Any]
    host: datetime
    sessions: tuple[SessionPlan, ...]

    def only(self, kept: Mapping[int, Sequence[int]]) -> Plan:
        """Return this run with the steps of these numbers only, by session; all other sessions are left out."""
        sessions = tuple(
            replace(session, steps=tuple(session.steps[index] for index in kept[session.number]))
            for session in self.sessions
            if session.number in kept
        )
        return replace(self, sessions=sessions)

    def keeps_all(self) -> dict[int, tuple[int, ...]]:
        """Return what `only` is to be given for the whole run."""
        return {session.number: tuple(range(len(session.steps))) for session in self.sessions}


def make(seed: int, sessions: int = SESSIONS_IN_A_RUN, knobs: str = knob.KNOWN) -> Plan:
    """Make the run of a seed.

    Args:
        seed: of everything in it.
        sessions: how many it has.
        knobs: one of `KNOBS`: what is turned of the meter, and which troubles there are.
    """
    chance = random.Random(seed)
    kind = chance.choice((SERVICE, MODULE))
    options = knob.options(chance, f"1SIM{seed % 10**10:010}")
    settings: dict[str, Any] = {
        "timezone": chance.choice(("+0100", "Europe/Berlin", "+0000")),
        "command_timeout_ms": chance.choice((1000, 5000)),
        "resilience_initial_connection_retry_delay": chance.choice((1000, 3000)),
        "TT_initial": chance.choice(("", "0,49 EUR/kWh")),
    }
    options = knob.turned(random.Random(f"{seed} knobs"), options, knobs)
    maker = _Maker(chance, _TROUBLES + _more_troubles(knobs))
    return Plan(
        seed,
        kind,
        chance.random() < 0.7,
        options,
        settings,
        chance.choice(INSTANTS) + timedelta(seconds=chance.random()),
        tuple(maker.session(number) for number in range(sessions)),
    )


class _Maker:
    """Makes sessions: what the station does, and what goes wrong meanwhile."""

    def __init__(self, chance: random.Random, troubles: tuple[Trouble, ...]) -> None:
        self.chance = chance
        self._troubles = troubles
        self._ids = 0
        self._cards = [f"04A2{chance.randrange(16**6):06X}" for _ in range(3)]

    def session(self, number: int) -> SessionPlan:
        chance = self.chance
        length_s = chance.choice((6.0, 12.0, 12.0, 25.0))
        steps = list(chance.choice(_STATIONS)(self, length_s))
        if chance.random() >= CALM:
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                trouble = chance.choice(self._troubles)
                steps += trouble(self, chance.uniform(0.0, length_s))
        return SessionPlan(number, length_s, tuple(sorted(steps, key=lambda each: each.at_s)))

    def new_id(self) -> str:
        self._ids += 1
        return f"T-{self._ids}"

    def request(self, transaction_id: str, **fields: Any) -> dict[str, Any]:
        chance = self.chance
        request = start_request(transaction_id, f"{chance.randrange(16**8):08X}")
        if chance.random() < 0.15:
            request["identification_data"] = chance.choice(self._cards)
        elif chance.random() < 0.2:
            del request["identification_data"]
        if chance.random() < 0.3:
            request["tariff_text"] = chance.choice(("0,59 EUR/kWh", "0,79 EUR/kWh"))
        return request | fields

    def start(self, at_s: float, transaction_id: str, **fields: Any) -> Step:
        return step(at_s, "start", request=self.request(transaction_id, **fields))

    # --- what the station does ---

    def plain(self, length_s: float) -> Iterator[Step]:
        transaction_id = self.new_id()
        yield self.start(0.0, transaction_id)
        end_s = self.chance.uniform(0.3, 0.9) * length_s
        is_as_everest = self._ids % 2 == 0
        yield step(end_s, "stop_if_begun" if is_as_everest else "stop", transaction_id=transaction_id)
        if self.chance.random() < 0.7 and not is_as_everest:
            yield step(length_s, "stop_again_if_failed", transaction_id=transaction_id)

    def twice(self, length_s: float) -> Iterator[Step]:
        """Start twice, with the same id or another, with the same request or another."""
        chance, first = self.chance, self.new_id()
        request = self.request(first)
        second = chance.choice((first, first, self.new_id()))
        again = request if second == first and chance.random() < 0.5 else self.request(second)
        yield step(0.0, "start", request=request)
        yield step(chance.choice((0.0, 0.01, 1.5, 3.0)), "start", request=again)
        ids = [first, second] if chance.random() < 0.5 else [second, first]
        for transaction_id in dict.fromkeys(ids):
            yield _stop(chance.uniform(0.5, 0.8) * length_s, transaction_id)

    def stops(self, length_s: float) -> Iterator[Step]:
        """Stop twice, at once or one after the other."""
        transaction_id = self.new_id()
        yield self.start(0.0, transaction_id)
        at_s = self.chance.uniform(0.3, 0.7) * length_s
        yield _stop(at_s, transaction_id)
        yield _stop(at_s + self.chance.choice((0.0, 0.05, 2.0)), transaction_id)

    def before(self, length_s: float) -> Iterator[Step]:
        """Stop before start."""
        transaction_id = self.new_id()
        yield _stop(0.0, transaction_id)
        yield self.start(self.chance.choice((0.0, 0.5, 2.0)), transaction_id)
        yield _stop(0.8 * length_s, transaction_id)

    def at_once(self, length_s: float) -> Iterator[Step]:
        """Start and stop in the same moment, and a stop after it."""
        transaction_id = self.new_id()
        yield self.start(0.0, transaction_id)
        yield _stop(self.chance.choice((0.0, 0.003, 0.02)), transaction_id)
        yield _stop(0.7 * length_s, transaction_id)

    def wrong_ids(self, length_s: float) -> Iterator[Step]:
        """Stops with ids that never were, or with none."""
        transaction_id = self.new_id()
        yield self.start(0.0, transaction_id)
        yield _stop(0.4 * length_s, self.chance.choice(("", "", "T-never", self.new_id())))
        yield _stop(0.8 * length_s, transaction_id)

    def refused(self, length_s: float) -> Iterator[Step]:
        """A start that is refused (a foreign evse_id, a meter in error), and its stop."""
        transaction_id = self.new_id()
        if self.chance.random() < 0.5:
            yield self.start(0.0, transaction_id, evse_id="DE*OTHER*E9")
        else:
            yield step(0.0, "meter_in_error", for_s=self.chance.uniform(1.5, length_s))
            yield self.start(1.2, transaction_id)
        yield _stop(0.6 * length_s, transaction_id)

    def late_stop(self, length_s: float) -> Iterator[Step]:
        """A session that is only stopped after the next one, if at all."""
        first, second = self.new_id(), self.new_id()
        yield self.start(0.0, first)
        yield self.start(0.4 * length_s, second)
        yield _stop(0.7 * length_s, second)
        if self.chance.random() < 0.7:
            yield _stop(0.9 * length_s, first)

    # --- what goes wrong ---

    def wire(self, at_s: float) -> Iterator[Step]:
        chance = self.chance
        kind = chance.choice(WIRE_FAULTS)
        method, node = chance.choice(NODES)
        detail: dict[str, Any] = {"kind": kind, "method": method, "node": node}
        detail["count"] = chance.choice((1, 1, 2, 5, 20))
        if kind == "stall":
            detail["delay_s"] = chance.choice((0.8, 3.0, 30.0))
        if kind in ("stall", "server-error"):
            detail["acts"] = chance.random() < 0.5
        yield step(chance.choice((0.0, at_s)), "wire_fault", **detail)
        yield step(at_s + chance.choice((5.0, 20.0)), "wire_heals")

    def power(self, at_s: float) -> Iterator[Step]:
        yield step(at_s, "cut_power", **self._cut())

    def trapped(self, at_s: float) -> Iterator[Step]:
        """Something at one of the instants of `TRAPPED`."""
        chance = self.chance
        method, node, delays_s = chance.choice(TRAPPED)
        what, then = chance.choice(
            (
                ("cut_power", self._cut()),
                ("cut_power", self._cut()),
                ("kill", {"away_s": chance.choice((0.3, 2.0))}),
                ("exchange_meter", {"private_network_s": 1.0}),
                ("shift_clock", {"by_s": chance.choice((-7200.0, -30.0, 3600.0))}),
                ("network_swallows", {"for_s": chance.choice((2.0, 12.0))}),
            )
        )
        if what == "exchange_meter" and chance.random() < 0.6:
            what, then = "kill", {"away_s": 0.5}
        trap = {"method": method, "node": node, "delay_s": chance.choice(delays_s), "what": what, "then": then}
        yield step(chance.choice((0.0, at_s)), "set_trap", **trap)

    def network(self, at_s: float) -> Iterator[Step]:
        chance = self.chance
        if chance.random() < 0.5:
            yield step(at_s, "network_swallows", for_s=chance.choice((1.0, 5.0, 15.0)))
        else:
            yield step(at_s, "network_is_slow", by_s=chance.choice((0.2, 0.9, 2.0)), for_s=10.0)

    def disk(self, at_s: float) -> Iterator[Step]:
        trouble = "full" if self.chance.random() < 0.6 else "writes slowly"
        yield step(at_s, "disk_fails", trouble=trouble, for_s=self.chance.choice((2.0, 15.0)))

    def exchanged(self, at_s: float) -> Iterator[Step]:
        if self.chance.random() < 0.4:
            yield step(at_s, "exchange_meter", private_network_s=self.chance.choice((0.5, 4.0)))

    def stranger(self, at_s: float) -> Iterator[Step]:
        yield step(at_s, "begin_by_hand")
        yield step(at_s + self.chance.uniform(1.0, 8.0), "end_by_hand")

    def unreadable(self, at_s: float) -> Iterator[Step]:
        """A disk that does not answer, or answers with an error, also when it is read: often as a process starts."""
        chance = self.chance
        for_s = chance.choice((2.0, 15.0, 40.0))
        yield step(at_s, "disk_fails", trouble=chance.choice(("silent", "broken", "slow")), for_s=for_s)
        if chance.random() < 0.5:
            yield step(at_s + 0.1, chance.choice(("kill", "restart")), away_s=0.3)

    def late(self, at_s: float) -> Iterator[Step]:
        """Requests that are acted on seconds after they were given up."""
        chance = self.chance
        method, node = chance.choice((("POST", "/receipt"), ("POST", "/receipt"), ("POST", "/user"), ("POST", "*")))
        detail = {"kind": "act-late", "method": method, "node": node, "count": chance.choice((1, 1, 2))}
        yield step(chance.choice((0.0, at_s)), "wire_fault", **detail, delay_s=chance.choice((0.8, 2.0, 5.0)))
        yield step(at_s + 10.0, "wire_heals")

    def _cut(self) -> dict[str, Any]:
        chance = self.chance
        return {
            "off_s": chance.choice((0.2, 2.0, 10.0)),
            "boot_s": chance.choice((0.5, 3.0, 12.0)),
            "open_at_power_cut": chance.choice(knob.OPEN_AT_POWER_CUT),
        }


def _stop(at_s: float, transaction_id: str) -> Step:
    return step(at_s, "stop", transaction_id=transaction_id)


def _one(what: str, **choices: tuple[float, ...]) -> Trouble:
    """Return what makes one step, each detail of which is chosen from several."""
    return lambda maker, at_s: (
        step(at_s, what, **{name: maker.chance.choice(several) for name, several in choices.items()}),
    )


Trouble: TypeAlias = "Callable[[_Maker, float], Iterable[Step]]"
_STATIONS: Final = (
    *(6 * [_Maker.plain]), _Maker.twice, _Maker.stops, _Maker.before, _Maker.at_once, _Maker.wrong_ids, _Maker.refused,
    _Maker.late_stop,
)  # fmt: skip
_TROUBLES: Final[tuple[Trouble, ...]] = (
    *(4 * [_Maker.wire]), *(2 * [_Maker.power]), *(3 * [_Maker.trapped]), _Maker.network,
    _one("kill", away_s=(0.1, 1.0, 5.0)), _one("restart", away_s=(0.1, 1.0, 5.0)),
    _one("shift_clock", by_s=(-86400.0, -3600.0, -20.0, 20.0, 3600.0, 1e7)),
    _one("step_host", by_s=(-1e12, -3600.0, -30.0, 30.0, 3600.0, 1.8e9)),
    _Maker.disk, _Maker.exchanged, _Maker.stranger, _one("broker_away", for_s=(0.2, 3.0, 20.0)),
    _one("current_flows", for_s=(2.0, 8.0, 20.0)),
)  # fmt: skip
_MORE_TROUBLES: Final[dict[str, tuple[Trouble, ...]]] = {
    "unreadable": (_Maker.unreadable, _Maker.unreadable),
    "late": (_Maker.late, _Maker.late),
    "frozen": (_one("values_freeze", for_s=(3.0, 15.0, 60.0)),),
    "falls": (_one("register_falls", to_wh=(0, 20_480)),),
    "swapped": (_one("swap_meters", away_s=(0.5, 4.0, 12.0)),),
}
"""What goes wrong besides with every knob turned, or often under the name of one."""
KNOBS: Final = (knob.KNOWN, knob.ALL, *knob.UNKNOWN, *_MORE_TROUBLES)
"""What `make` may be told to turn."""


def _more_troubles(knobs: str) -> tuple[Trouble, ...]:
    if knobs == knob.ALL:
        return sum(_MORE_TROUBLES.values(), start=())
    return 7 * _MORE_TROUBLES.get(knobs, ())
