"""The control path: what a test or a demonstration does to the meter from outside, over the same port.

======  ====================  =================================================================================
GET     /_sim/state           the whole state, with all signed tuples
POST    /_sim/faults          a fault or a list of them (`Fault`)
DELETE  /_sim/faults          forgets all faults
POST    /_sim/power-cycle     ``{"off_s", "boot_s"}``, both optional; the answer goes out before the power goes
POST    /_sim/set             options by name (`SimulatorOptions`); beside them ``clock_skew_s`` shifts the clock and
                              ``load`` is ``{"current_a", "voltage_v"}``, or null to switch off whatever flows
======  ====================  =================================================================================

Every answer is JSON. What is not understood is answered 400 with ``{"error": [reason, …]}`` and changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iem_dcr.errors import ConfigError, printable
from iem_dcr.simulator.faults import Fault
from iem_dcr.simulator.nodes import Answer, json_answer
from iem_dcr.simulator.options import LARGEST_LOAD, LONGEST_OFF_S, LONGEST_SKEW_S
from iem_dcr.simulator.values import number_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.simulator.meter import SimulatedMeter

PREFIX = "/_sim/"


@dataclass(frozen=True, slots=True)
class Controlled:
    """An answer of the control path, and what is to be done once it went out."""

    answer: Answer
    afterwards: Callable[[], None] | None = None


def control(meter: SimulatedMeter, method: str, path: str, body: bytes = b"") -> Controlled:
    """Act on a request of the control path."""
    actions = _ACTIONS.get(path)
    if actions is None:
        return _error(404, f"no such path; there are {', '.join(_ACTIONS)}")
    action = actions.get(method)
    if action is None:
        return _error(405, f"expects {' or '.join(actions)}")
    try:
        return action(meter, body)
    except ConfigError as error:
        return _error(400, *error.problems)


def _state(meter: SimulatedMeter, _body: bytes) -> Controlled:
    return Controlled(json_answer(meter.as_json()))


def _add_faults(meter: SimulatedMeter, body: bytes) -> Controlled:
    value = _json(body)
    faults = [Fault.from_json(item) for item in (value if isinstance(value, list) else [value])]
    meter.faults.add(*faults)
    return _faults(meter)


def _clear_faults(meter: SimulatedMeter, _body: bytes) -> Controlled:
    meter.faults.clear()
    return _faults(meter)


def _faults(meter: SimulatedMeter) -> Controlled:
    return Controlled(json_answer({"faults": meter.faults.as_json()}))


def _power_cycle(meter: SimulatedMeter, body: bytes) -> Controlled:
    times = {"off_s": 2.0, "boot_s": 3.0}
    for name, value in (_object(body) if body.strip() else {}).items():
        if name not in times:
            raise ConfigError([f"{printable(name)}: expects {' and '.join(times)}"])
        times[name] = number_in(name, value, 0, LONGEST_OFF_S)
    answer = json_answer({"reachable_after_s": sum(times.values())})
    return Controlled(answer, lambda: meter.power_cycle(**times))


def _set(meter: SimulatedMeter, body: bytes) -> Controlled:
    changes = _object(body)
    then: list[Callable[[], None]] = []
    if "clock_skew_s" in changes:
        skew_s = number_in("clock_skew_s", changes.pop("clock_skew_s"), -LONGEST_SKEW_S, LONGEST_SKEW_S)
        then.append(lambda: meter.shift_clock(skew_s))
    if "load" in changes:
        then.append(_load(meter, changes.pop("load")))
    meter.configure(**changes)
    for step in then:
        step()
    return Controlled(json_answer({"options": meter.options.as_json()}))


def _load(meter: SimulatedMeter, value: object) -> Callable[[], None]:
    if value is None:
        return meter.clear_load
    if not isinstance(value, dict) or value.keys() != {"current_a", "voltage_v"}:
        raise ConfigError(["load: expects null or an object with the keys current_a and voltage_v"])
    current_a = number_in("current_a", value["current_a"], -LARGEST_LOAD, LARGEST_LOAD)
    voltage_v = number_in("voltage_v", value["voltage_v"], 0, LARGEST_LOAD)
    return lambda: meter.set_load(current_a, voltage_v)


def _json(body: bytes) -> object:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError(["the body is not JSON"]) from error
    return value


def _object(body: bytes) -> dict[str, object]:
    value = _json(body)
    if not isinstance(value, dict):
        raise ConfigError(["the body is not an object"])
    return value


def _error(status: int, *reasons: str) -> Controlled:
    return Controlled(json_answer({"error": list(reasons)}, status))


_ACTIONS: dict[str, dict[str, Callable[[SimulatedMeter, bytes], Controlled]]] = {
    PREFIX + "state": {"GET": _state},
    PREFIX + "faults": {"POST": _add_faults, "DELETE": _clear_faults},
    PREFIX + "power-cycle": {"POST": _power_cycle},
    PREFIX + "set": {"POST": _set},
}
