"""The plan of a run, made from a seed: the meter, the process, and sessions of steps. Any step can be omitted.

Tables list what a station does and what goes wrong. Runs of real processes use parts of them too. In a table a tuple
means one of its items, chosen at random. A dict means all of its values.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from endurance.knobs import ALL, KNOWN, OPEN_AT_POWER_CUT, UNKNOWN, known_options, with_unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from iem_dcr.simulator import SimulatorOptions

SERVICE: Final = "service"
MODULE: Final = "module"
"""The two programs that drive a meter: `iem-dcr run` and the EVerest module."""

EVSE_ID: Final = "DE*SIM*E1"
SESSIONS_IN_A_RUN: Final = 25
CALM: Final = 0.3
"""Share of the sessions in which nothing goes wrong."""
LENGTHS_S: Final = (6.0, 12.0, 12.0, 25.0)
INSTANTS: Final = (
    datetime(2026, 6, 1, 12, tzinfo=UTC),
    datetime(2026, 3, 29, 0, 58, tzinfo=UTC),
    datetime(2026, 10, 25, 0, 58, tzinfo=UTC),
    datetime(2027, 12, 31, 23, 58, tzinfo=UTC),
    datetime(1970, 1, 1, 0, 1, tzinfo=UTC),
)
"""The host's time at the beginning. Some are minutes before summer time begins or ends, one is an unset clock."""

# --- what a station does ---

STATIONS: Final = (
    *(8 * ["0 start A; .6 stop A; 1 stop_again_if_failed A"]), *(8 * ["0 start A; .6 stop_if_begun A"]),
    "0 start A; 0 start A; .6 stop A", "0 start A; .001 again A; .6 stop A", "0 start A; .2 again A; .6 stop A",
    "0 start A; 0 start B; .6 stop B; .7 stop A", "0 start A; .4 start B; .7 stop B; .8 stop A",
    "0 start A; .4 start B; .6 stop B", "0 start A; .6 start B; .8 stop B", "0 start A; .5 stop A; .5 stop A",
    "0 start A; .5 stop A; .6 stop A", "0 start A; .02 repeat; .5 stop A; .52 repeat",
    "0 stop A; 0 start A; .8 stop A", "0 stop A; .1 start A; .8 stop A", "0 start A; 0 stop A; .7 stop A",
    "0 start A; .0003 stop A; .7 stop A", "0 start A; .002 stop A; .7 stop A", "0 start A; .4 stop; .8 stop A",
    "0 start A; .4 stop; .4 start B; .8 stop B", "0 start A; .4 stop never; .8 stop A",
    "0 start A; .4 stop B; .8 stop A", "0 foreign A; .6 stop A", "0 start A; .4 foreign B; .6 stop B; .8 stop A",
    "0 error; .2 start A; .6 stop A",
)  # fmt: skip
"""The commands of a session: time as a share of its length, command, id. ``again`` repeats the request. ``repeat``
repeats the message, as a broker does without an acknowledgement. ``foreign`` is a start for another connector than the
meter's. In ``error`` the meter reports an error for some time."""

# --- what goes wrong ---

Row: TypeAlias = tuple[Any, ...]
"""A step of a trouble: seconds after the beginning of the trouble, name of the step, and its details to be merged."""


def _nodes(text: str) -> tuple[dict[str, str], ...]:
    return tuple(dict(zip(("method", "node"), each.split(), strict=True)) for each in text.split(", "))


def _one(what: Any, *details: Any, **more: Any) -> tuple[Row, ...]:
    return ((0.0, what, *details, more),)


NODES: Final = _nodes(
    "* *, POST /user, POST /receipt, GET /receipt, GET /metervalue, GET /transaction, POST /gw, GET /gw,"
    " POST /datetime, POST /tariff"
)
TRAP_REQUESTS: Final = (
    *(2 * [{"method": "POST", "node": "/user", "delay_s": (0.0, 0.004)}]),
    *(2 * [{"method": "POST", "node": "/receipt", "delay_s": (0.0, 0.3, 0.13, 0.13, 0.13)}]),
    {"method": "GET", "node": ("/receipt", "/transaction", "/metervalue"), "delay_s": (0.0, 0.003)},
    {"method": "POST", "node": "/gw", "delay_s": 0.0},
)
"""Instants relative to a request at the meter: after /user, after B, during signing, after E."""
FAULTS: Final = (
    {"kind": ("refuse", "lose-request", "lose-answer", "reset", "garbage", "garbage-http", "wrong-length")},
    {"kind": ("lose-request", "lose-answer")},
    {"kind": "stall", "delay_s": (0.8, 3.0, 30.0), "acts": (True, False)},
    {"kind": "server-error", "acts": (True, False)},
)
CUT: Final = {"off_s": (0.2, 2.0, 10.0), "boot_s": (0.5, 3.0, 12.0), "open_at_power_cut": OPEN_AT_POWER_CUT}
TRAP_ACTIONS: Final = (
    *(4 * [{"what": "cut_power", "then": CUT}]), *(3 * [{"what": "kill", "then": {"away_s": (0.3, 2.0)}}]),
    {"what": "exchange_meter", "then": {"private_network_s": 1.0}},
    {"what": "shift_clock", "then": {"by_s": (-7200.0, -30.0, 3600.0)}},
    {"what": "network_swallows", "then": {"for_s": (2.0, 12.0)}},
)  # fmt: skip

WIRE: Final = (0.0, "wire_fault", FAULTS, NODES, {"count": (1, 1, 2, 5, 20)}), ((5.0, 20.0), "wire_heals")
POWER: Final = _one("cut_power", CUT)
CLOCK: Final = _one("shift_clock", by_s=(-86400.0, -3600.0, -20.0, 20.0, 3600.0, 1e7))
LOAD: Final = _one("current_flows", for_s=(2.0, 8.0, 20.0))
FOREIGN: Final = (0.0, "begin_by_hand"), ((1.0, 4.0, 8.0), "end_by_hand")
TROUBLES: Final[tuple[tuple[Row, ...], ...]] = (
    *(4 * [WIRE]), *(2 * [POWER]), *(3 * [_one("set_trap", TRAP_REQUESTS, TRAP_ACTIONS)]), CLOCK, LOAD, FOREIGN,
    _one("network_swallows", for_s=(1.0, 5.0, 15.0)), *(2 * [_one(("kill", "restart"), away_s=(0.1, 1.0, 5.0))]),
    _one("network_is_slow", by_s=(0.2, 0.9, 2.0), for_s=10.0),
    _one("step_host", by_s=(-1e12, -3600.0, -30.0, 30.0, 3600.0, 1.8e9)),
    _one("disk_fails", trouble=("full", "full", "writes slowly"), for_s=(2.0, 15.0)),
    _one("exchange_meter", private_network_s=(0.5, 4.0)), _one("broker_away", for_s=(0.2, 3.0, 20.0)),
)  # fmt: skip
UNREADABLE: Final = _one("disk_fails", trouble=("silent", "broken", "slow"), for_s=(2.0, 15.0, 40.0))
LATE: Final = {"kind": "act-late", "delay_s": (0.8, 2.0, 5.0), "count": (1, 1, 2)}
LATE_NODES: Final = _nodes("POST /receipt, POST /receipt, POST /user, POST *")
MORE_TROUBLES: Final[dict[str, tuple[tuple[Row, ...], ...]]] = {
    "unreadable": (UNREADABLE, (*UNREADABLE, (0.1, ("kill", "restart"), {"away_s": 0.3}))),
    "late": 2 * (((0.0, "wire_fault", LATE, LATE_NODES), (10.0, "wire_heals")),),
    "frozen": (_one("values_freeze", for_s=(3.0, 15.0, 60.0)),),
    "falls": (_one("register_falls", to_wh=(0, 20_480)),),
    "swapped": (_one("swap_meters", away_s=(0.5, 4.0, 12.0)),),
}
"""Further troubles for the knobs ``all``, or for the name of one, in which case it is frequent:

* unreadable: the disk does not answer or returns errors, often while a process starts.
* late: the meter acts on a request seconds after the driver gave it up.
* frozen: live values do not change.
* falls: the import register falls.
* swapped: the cables of two meters are swapped, and swapped back.
"""
KNOBS: Final = (KNOWN, ALL, *UNKNOWN, *MORE_TROUBLES)
"""Valid values of ``knobs`` for `make`."""


def picked(chance: random.Random, choices: Any) -> Any:
    """Make the random choices of a table entry."""
    if isinstance(choices, tuple):
        return picked(chance, chance.choice(choices))
    if isinstance(choices, dict):
        return {name: picked(chance, each) for name, each in choices.items()}
    return choices


# --- a plan ---


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a session.

    Attributes:
        at_s: seconds from the beginning of the session.
        what: name of a method of `world.World`.
        detail: arguments of that method.
    """

    at_s: float
    what: str
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.at_s:6.2f} s  {self.what}" + "".join(f" {name}={value}" for name, value in self.detail.items())


def start_request(transaction_id: str, card: str) -> dict[str, Any]:
    """Return a request for a start in EVerest's form."""
    return {
        "evse_id": EVSE_ID, "transaction_id": transaction_id, "identification_status": "ASSIGNED",
        "identification_flags": ["RFID_PLAIN"], "identification_type": "ISO14443", "identification_data": card,
    }  # fmt: skip


def step(at_s: float, what: str, /, **detail: Any) -> Step:
    """Create a step."""
    return Step(at_s, what, detail)


def start(at_s: float, number: int, **fields: Any) -> Step:
    """Create a start of the transaction ``T-<number>``. Its card is ``04AA<number>`` unless ``fields`` differ."""
    return step(at_s, "start", request=start_request(f"T-{number}", f"04AA{number}") | fields)


def stop(at_s: float, number: int, what: str = "stop") -> Step:
    """Create a stop of the transaction ``T-<number>``; ``what`` names the kind of stop."""
    return step(at_s, what, transaction_id=f"T-{number}")


def trap(request: str, then: Step, *, set_at_s: float = 0.0) -> Step:
    """Create a trap: ``then`` runs its ``at_s`` after the next request such as ``POST /user``."""
    method, node = request.split()
    detail = {"method": method, "node": node, "delay_s": then.at_s, "what": then.what, "then": then.detail}
    return step(set_at_s, "set_trap", **detail)


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """The steps of a session in the order of time, and its minimum length."""

    number: int
    length_s: float
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run: its initial state and its sessions.

    Attributes:
        kind: the program that drives the meter.
        host: the host's time at the beginning.
    """

    seed: int
    kind: str
    journal: bool
    options: SimulatorOptions
    settings: dict[str, Any]
    host: datetime
    sessions: tuple[SessionPlan, ...]

    @property
    def step_count(self) -> int:
        """The number of steps. They are numbered across all sessions."""
        return sum(len(session.steps) for session in self.sessions)

    def only(self, kept: Collection[int]) -> Plan:
        """Return this run with only the steps ``kept``, up to the last session that has one."""
        numbers = itertools.count()
        sessions = [
            replace(session, steps=tuple(each for each in session.steps if next(numbers) in kept))
            for session in self.sessions
        ]
        while sessions and not sessions[-1].steps:
            del sessions[-1]
        return replace(self, sessions=tuple(sessions))


def make(seed: int, sessions: int = SESSIONS_IN_A_RUN, knobs: str = KNOWN) -> Plan:
    """Create the run of a seed. ``knobs`` (of `KNOBS`) says which knobs of the meter vary, and which troubles occur."""
    chance = random.Random(seed)
    kind = chance.choice((SERVICE, MODULE))
    options = known_options(chance, f"1SIM{seed % 10**10:010}")
    settings: dict[str, Any] = {
        "timezone": chance.choice(("+0100", "Europe/Berlin", "+0000")),
        "command_timeout_ms": chance.choice((1000, 5000)),
        "resilience_initial_connection_retry_delay": chance.choice((1000, 3000)),
        "TT_initial": chance.choice(("", "0,49 EUR/kWh")),
    }
    options = with_unknown(random.Random(f"{seed} knobs"), options, knobs)
    more = 7 * MORE_TROUBLES.get(knobs, ()) if knobs != ALL else sum(MORE_TROUBLES.values(), start=())
    maker = Maker(chance, TROUBLES + more, (f"T-{number}" for number in itertools.count(1)).__next__)
    return Plan(
        seed,
        kind,
        chance.random() < 0.7,
        options,
        settings,
        chance.choice(INSTANTS) + timedelta(seconds=chance.random()),
        tuple(maker.session(number, chance.choice(LENGTHS_S)) for number in range(sessions)),
    )


class Maker:
    """Creates sessions: the commands of the station with new ids, and random troubles."""

    def __init__(self, chance: random.Random, troubles: Sequence[tuple[Row, ...]], new_id: Callable[[], str]) -> None:
        self._chance = chance
        self._troubles = troubles
        self._new_id = new_id
        self._cards = [f"04A2{chance.randrange(16**6):06X}" for _ in range(3)]

    def session(self, number: int, length_s: float) -> SessionPlan:
        chance = self._chance
        steps = self._station(length_s)
        for _ in range(0 if chance.random() < CALM else chance.choice((1, 1, 1, 2, 3))):
            at_s = max(0.0, chance.uniform(-0.2, 1.0)) * length_s
            for after_s, what, *details in chance.choice(self._troubles):
                detail = {name: each for some in details for name, each in picked(chance, some).items()}
                steps.append(Step(at_s + picked(chance, after_s), picked(chance, what), detail))
        return SessionPlan(number, length_s, tuple(sorted(steps, key=lambda each: each.at_s)))

    def _station(self, length_s: float) -> list[Step]:
        chance = self._chance
        part_s = length_s * chance.uniform(0.7, 1.1)
        ids = {"A": self._new_id(), "B": self._new_id(), "never": "T-never", "": ""}
        requests: dict[str, dict[str, Any]] = {}
        steps = []
        for part, what, which in ([*each.split(), ""][:3] for each in chance.choice(STATIONS).split("; ")):
            at_s, name = part_s * float(part), ids[which]
            if what in ("start", "again", "foreign"):
                if what != "again":
                    requests[name] = self._request(name)
                if what == "foreign":
                    requests[name]["evse_id"] = "DE*OTHER*E9"
                steps.append(step(at_s, "start", request=requests[name]))
            elif what == "error":
                steps.append(step(at_s, "meter_in_error", for_s=chance.uniform(1.5, length_s)))
            else:
                steps.append(step(at_s, what, **({} if what == "repeat" else {"transaction_id": name})))
        return steps

    def _request(self, transaction_id: str) -> dict[str, Any]:
        chance = self._chance
        request = start_request(transaction_id, f"{chance.randrange(16**8):08X}")
        if chance.random() < 0.15:
            request["identification_data"] = chance.choice(self._cards)
        elif chance.random() < 0.2:
            del request["identification_data"]
        if chance.random() < 0.3:
            request["tariff_text"] = chance.choice(("0,59 EUR/kWh", "0,79 EUR/kWh"))
        return request
