"""What happens in a run, made from a seed: the meter, the process, and sessions of steps. A step can be left out."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from endurance import knobs as knob
from endurance.model import MODULE, SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    detail: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line of a listing."""
        return f"{self.at_s:6.2f} s  {self.what}" + "".join(f" {name}={value}" for name, value in self.detail.items())


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
        seed, knobs: it was made from.
        kind: which of our processes drives the meter.
        journal: whether receipts are kept.
        options: of the meter.
        settings: of the driver.
        host: the host's clock at the beginning.
        sessions: in their order.
    """

    seed: int
    knobs: str
    kind: str
    journal: bool
    options: SimulatorOptions
    settings: dict[str, Any]
    host: datetime
    sessions: tuple[SessionPlan, ...]

    def only(self, kept: dict[int, tuple[int, ...]]) -> Plan:
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
    more = (
        {knobs: 7 * _MORE_TROUBLES[knobs]} if knobs in _MORE_TROUBLES else _MORE_TROUBLES if knobs == knob.ALL else {}
    )
    maker = _Maker(chance, sum(more.values(), start=_TROUBLES))
    return Plan(
        seed,
        knobs,
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
        self._chance = chance
        self._troubles = troubles
        self._ids = 0
        self._cards = [f"04A2{chance.randrange(16**6):06X}" for _ in range(3)]

    def session(self, number: int) -> SessionPlan:
        chance = self._chance
        length_s = chance.choice((6.0, 12.0, 12.0, 25.0))
        steps = list(chance.choice(_STATIONS)(self, length_s))
        if chance.random() >= CALM:
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                steps += self.trouble(length_s)
        return SessionPlan(number, length_s, tuple(sorted(steps, key=lambda step: step.at_s)))

    def trouble(self, length_s: float) -> Iterator[Step]:
        chance = self._chance
        yield from chance.choice(self._troubles)(self, chance.uniform(0.0, length_s))

    # --- what the station does ---

    def new_id(self) -> str:
        self._ids += 1
        return f"T-{self._ids}"

    def request(self, transaction_id: str, **fields: Any) -> dict[str, Any]:
        chance = self._chance
        request: dict[str, Any] = {
            "evse_id": "DE*SIM*E1",
            "transaction_id": transaction_id,
            "identification_status": "ASSIGNED",
            "identification_flags": ["RFID_PLAIN"],
            "identification_type": "ISO14443",
            "identification_data": f"{chance.randrange(16**8):08X}",
        }
        if chance.random() < 0.15:
            request["identification_data"] = chance.choice(self._cards)
        elif chance.random() < 0.2:
            del request["identification_data"]
        if chance.random() < 0.3:
            request["tariff_text"] = chance.choice(("0,59 EUR/kWh", "0,79 EUR/kWh"))
        return request | fields

    def plain(self, length_s: float) -> Iterator[Step]:
        transaction_id = self.new_id()
        yield Step(0.0, "start", {"request": self.request(transaction_id)})
        end_s = self._chance.uniform(0.3, 0.9) * length_s
        is_as_everest = self._ids % 2 == 0
        yield Step(end_s, "stop_if_begun" if is_as_everest else "stop", {"transaction_id": transaction_id})
        if self._chance.random() < 0.7 and not is_as_everest:
            yield Step(length_s, "stop_again_if_failed", {"transaction_id": transaction_id})

    def twice(self, length_s: float) -> Iterator[Step]:
        """Start twice, with the same id or another, with the same request or another."""
        first = self.new_id()
        request = self.request(first)
        second = self._chance.choice((first, first, self.new_id()))
        again = request if second == first and self._chance.random() < 0.5 else self.request(second)
        yield Step(0.0, "start", {"request": request})
        yield Step(self._chance.choice((0.0, 0.01, 1.5, 3.0)), "start", {"request": again})
        ids = [first, second] if self._chance.random() < 0.5 else [second, first]
        for transaction_id in dict.fromkeys(ids):
            yield Step(self._chance.uniform(0.5, 0.8) * length_s, "stop", {"transaction_id": transaction_id})

    def stops(self, length_s: float) -> Iterator[Step]:
        """Stop twice, at once or one after the other."""
        transaction_id = self.new_id()
        yield Step(0.0, "start", {"request": self.request(transaction_id)})
        at_s = self._chance.uniform(0.3, 0.7) * length_s
        yield Step(at_s, "stop", {"transaction_id": transaction_id})
        yield Step(at_s + self._chance.choice((0.0, 0.05, 2.0)), "stop", {"transaction_id": transaction_id})

    def before(self, length_s: float) -> Iterator[Step]:
        """Stop before start."""
        transaction_id = self.new_id()
        yield Step(0.0, "stop", {"transaction_id": transaction_id})
        yield Step(self._chance.choice((0.0, 0.5, 2.0)), "start", {"request": self.request(transaction_id)})
        yield Step(0.8 * length_s, "stop", {"transaction_id": transaction_id})

    def at_once(self, length_s: float) -> Iterator[Step]:
        """Start and stop in the same moment, and a stop after it."""
        transaction_id = self.new_id()
        yield Step(0.0, "start", {"request": self.request(transaction_id)})
        yield Step(self._chance.choice((0.0, 0.003, 0.02)), "stop", {"transaction_id": transaction_id})
        yield Step(0.7 * length_s, "stop", {"transaction_id": transaction_id})

    def wrong_ids(self, length_s: float) -> Iterator[Step]:
        """Stops with ids that never were, or with none."""
        transaction_id = self.new_id()
        yield Step(0.0, "start", {"request": self.request(transaction_id)})
        wrong = self._chance.choice(("", "", "T-never", self.new_id()))
        yield Step(0.4 * length_s, "stop", {"transaction_id": wrong})
        yield Step(0.8 * length_s, "stop", {"transaction_id": transaction_id})

    def refused(self, length_s: float) -> Iterator[Step]:
        """A start that is refused (a foreign evse_id, a meter in error), and its stop."""
        transaction_id = self.new_id()
        if self._chance.random() < 0.5:
            yield Step(0.0, "start", {"request": self.request(transaction_id, evse_id="DE*OTHER*E9")})
        else:
            yield Step(0.0, "meter_in_error", {"for_s": self._chance.uniform(1.5, length_s)})
            yield Step(1.2, "start", {"request": self.request(transaction_id)})
        yield Step(0.6 * length_s, "stop", {"transaction_id": transaction_id})

    def late_stop(self, length_s: float) -> Iterator[Step]:
        """A session that is only stopped after the next one, if at all."""
        first, second = self.new_id(), self.new_id()
        yield Step(0.0, "start", {"request": self.request(first)})
        yield Step(0.4 * length_s, "start", {"request": self.request(second)})
        yield Step(0.7 * length_s, "stop", {"transaction_id": second})
        if self._chance.random() < 0.7:
            yield Step(0.9 * length_s, "stop", {"transaction_id": first})

    # --- what goes wrong ---

    def wire(self, at_s: float) -> Iterator[Step]:
        chance = self._chance
        kind = chance.choice(WIRE_FAULTS)
        method, node = chance.choice(NODES)
        detail: dict[str, Any] = {
            "kind": kind,
            "method": method,
            "node": node,
            "count": chance.choice((1, 1, 2, 5, 20)),
        }
        if kind == "stall":
            detail["delay_s"] = chance.choice((0.8, 3.0, 30.0))
        if kind in ("stall", "server-error"):
            detail["acts"] = chance.random() < 0.5
        yield Step(chance.choice((0.0, at_s)), "wire_fault", detail)
        yield Step(at_s + chance.choice((5.0, 20.0)), "wire_heals")

    def power(self, at_s: float) -> Iterator[Step]:
        yield Step(at_s, "cut_power", self._cut())

    def trapped(self, at_s: float) -> Iterator[Step]:
        """Something at an instant that is told by the meter's work: after the user, after B, while signing, after E."""
        chance = self._chance
        method, node, delays_s = chance.choice(
            (
                ("POST", "/user", (0.0, 0.004)),
                ("POST", "/receipt", (0.0, 0.3, 0.13, 0.13, 0.13)),
                ("GET", "/receipt", (0.0, 0.003)),
                ("GET", "/transaction", (0.0, 0.003)),
                ("POST", "/gw", (0.0,)),
                ("GET", "/metervalue", (0.0, 0.003)),
            )
        )
        what, detail = chance.choice(
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
            what, detail = "kill", {"away_s": 0.5}
        trap = {"method": method, "node": node, "delay_s": chance.choice(delays_s), "what": what, "then": detail}
        yield Step(chance.choice((0.0, at_s)), "set_trap", trap)

    def network(self, at_s: float) -> Iterator[Step]:
        chance = self._chance
        if chance.random() < 0.5:
            yield Step(at_s, "network_swallows", {"for_s": chance.choice((1.0, 5.0, 15.0))})
        else:
            yield Step(at_s, "network_is_slow", {"by_s": chance.choice((0.2, 0.9, 2.0)), "for_s": 10.0})

    def killed(self, at_s: float) -> Iterator[Step]:
        yield Step(at_s, "kill", {"away_s": self._chance.choice((0.1, 1.0, 5.0))})

    def ended(self, at_s: float) -> Iterator[Step]:
        yield Step(at_s, "restart", {"away_s": self._chance.choice((0.1, 1.0, 5.0))})

    def clock(self, at_s: float) -> Iterator[Step]:
        yield Step(at_s, "shift_clock", {"by_s": self._chance.choice((-86400.0, -3600.0, -20.0, 20.0, 3600.0, 1e7))})

    def host(self, at_s: float) -> Iterator[Step]:
        by_s = self._chance.choice((-1e12, -3600.0, -30.0, 30.0, 3600.0, 1.8e9))
        yield Step(at_s, "step_host", {"by_s": by_s})

    def disk(self, at_s: float) -> Iterator[Step]:
        trouble = "full" if self._chance.random() < 0.6 else "writes slowly"
        yield Step(at_s, "disk_fails", {"trouble": trouble, "for_s": self._chance.choice((2.0, 15.0))})

    def exchanged(self, at_s: float) -> Iterator[Step]:
        if self._chance.random() < 0.4:
            yield Step(at_s, "exchange_meter", {"private_network_s": self._chance.choice((0.5, 4.0))})

    def stranger(self, at_s: float) -> Iterator[Step]:
        yield Step(at_s, "begin_by_hand")
        yield Step(at_s + self._chance.uniform(1.0, 8.0), "end_by_hand")

    def broker(self, at_s: float) -> Iterator[Step]:
        yield Step(at_s, "broker_away", {"for_s": self._chance.choice((0.2, 3.0, 20.0))})

    def load(self, at_s: float) -> Iterator[Step]:
        """A current that flows when nothing may be begun or ended."""
        yield Step(at_s, "current_flows", {"for_s": self._chance.choice((2.0, 8.0, 20.0))})

    # --- what goes wrong with every knob turned ---

    def unreadable(self, at_s: float) -> Iterator[Step]:
        """A disk that does not answer, or answers with an error, also when it is read: often as a process starts."""
        chance = self._chance
        for_s = chance.choice((2.0, 15.0, 40.0))
        yield Step(at_s, "disk_fails", {"trouble": chance.choice(("silent", "broken", "slow")), "for_s": for_s})
        if chance.random() < 0.5:
            yield Step(at_s + 0.1, chance.choice(("kill", "restart")), {"away_s": 0.3})

    def late(self, at_s: float) -> Iterator[Step]:
        """Requests that are acted on seconds after they were given up."""
        chance = self._chance
        method, node = chance.choice((("POST", "/receipt"), ("POST", "/receipt"), ("POST", "/user"), ("POST", "*")))
        detail = {"kind": "act-late", "method": method, "node": node, "count": chance.choice((1, 1, 2))}
        yield Step(chance.choice((0.0, at_s)), "wire_fault", detail | {"delay_s": chance.choice((0.8, 2.0, 5.0))})
        yield Step(at_s + 10.0, "wire_heals")

    def frozen(self, at_s: float) -> Iterator[Step]:
        yield Step(at_s, "values_freeze", {"for_s": self._chance.choice((3.0, 15.0, 60.0))})

    def falls(self, at_s: float) -> Iterator[Step]:
        yield Step(at_s, "register_falls", {"to_wh": self._chance.choice((0, 20_480))})

    def swapped(self, at_s: float) -> Iterator[Step]:
        """Another meter at this address, and this one again later: two meters whose cables are swapped."""
        away_s = self._chance.choice((0.5, 4.0, 12.0))
        yield Step(at_s, "swap_meters", {"away_s": away_s})

    def _cut(self) -> dict[str, Any]:
        chance = self._chance
        return {
            "off_s": chance.choice((0.2, 2.0, 10.0)),
            "boot_s": chance.choice((0.5, 3.0, 12.0)),
            "open_at_power_cut": chance.choice(knob.OPEN_AT_POWER_CUT),
        }


Trouble: TypeAlias = "Callable[[_Maker, float], Iterator[Step]]"
_STATIONS: Final = (
    _Maker.plain, _Maker.plain, _Maker.plain, _Maker.plain, _Maker.plain, _Maker.plain, _Maker.twice, _Maker.stops,
    _Maker.before, _Maker.at_once, _Maker.wrong_ids, _Maker.refused, _Maker.late_stop,
)  # fmt: skip
_TROUBLES: Final = (
    _Maker.wire, _Maker.wire, _Maker.wire, _Maker.wire, _Maker.power, _Maker.power, _Maker.trapped, _Maker.trapped,
    _Maker.trapped, _Maker.network, _Maker.killed, _Maker.ended, _Maker.clock, _Maker.host, _Maker.disk,
    _Maker.exchanged, _Maker.stranger, _Maker.broker, _Maker.load,
)  # fmt: skip
_MORE_TROUBLES: Final[dict[str, tuple[Trouble, ...]]] = {
    "unreadable": (_Maker.unreadable, _Maker.unreadable),
    "late": (_Maker.late, _Maker.late),
    "frozen": (_Maker.frozen,),
    "falls": (_Maker.falls,),
    "swapped": (_Maker.swapped,),
}
KNOBS: Final = (knob.KNOWN, knob.ALL, *knob.UNKNOWN, *_MORE_TROUBLES)
"""What `make` may be told to turn."""
