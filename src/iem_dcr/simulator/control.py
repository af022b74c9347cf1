"""The control path: a test or a demonstration controls the meter over the same port.

docs/simulator.md lists the requests. Every answer is JSON. An invalid request is answered with
``{"error": [reason, …]}`` and changes nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

from iem_dcr.errors import ConfigError
from iem_dcr.simulator.faults import Fault
from iem_dcr.simulator.nodes import Answer, json_answer
from iem_dcr.simulator.options import SECONDS, SIGNED, UNSIGNED, build, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.simulator.meter import SimulatedMeter
    from iem_dcr.simulator.options import Kind

PREFIX: Final = "/_sim/"
_REQUESTS: Final = "GET state, POST faults, DELETE faults, POST power-cycle and POST set, each below /_sim/"
_SKEW: Final = click.FloatRange(-1e9, 1e9)


def control(
    meter: SimulatedMeter, method: str, path: str, body: bytes = b""
) -> tuple[Answer, Callable[[], None] | None]:
    """Handle a request of the control path. Return the answer and a function to call after it was sent, or None."""
    try:
        match method, path.removeprefix(PREFIX):
            case "GET", "state":
                return json_answer(meter.as_json()), None
            case "POST", "faults":
                given = _json(body)
                faults = [build(Fault, _object(each)) for each in (given if isinstance(given, list) else [given])]
                meter.faults.add(*faults)
            case "DELETE", "faults":
                meter.faults.clear()
            case "POST", "power-cycle":
                times_s = _numbers(
                    {"off_s": 2.0, "boot_s": 3.0} | _object(_json(body or b"{}")), off_s=SECONDS, boot_s=SECONDS
                )
                answer = json_answer({"reachable_after_s": sum(times_s.values())})
                return answer, lambda: meter.power_cycle(**times_s)
            case "POST", "set":
                _set(meter, _object(_json(body)))
                return json_answer({"options": meter.options.as_json()}), None
            case _:
                return json_answer({"error": [f"no such request; the requests are {_REQUESTS}"]}, 404), None
    except ConfigError as error:
        return json_answer({"error": list(error.problems)}, 400), None
    return json_answer({"faults": meter.faults.as_json()}), None


def _set(meter: SimulatedMeter, changes: dict[str, Any]) -> None:
    """Change options, the clock and the load. One invalid value leaves everything unchanged."""
    skew_s = read("clock_skew_s", _SKEW, changes.pop("clock_skew_s", 0.0))
    has_load, load = "load" in changes, changes.pop("load", None)
    flow = None if load is None else _numbers(_object(load), current_a=SIGNED, voltage_v=UNSIGNED)
    meter.configure(**changes)
    meter.shift_clock(skew_s)
    if flow is not None:
        meter.set_load(**flow)
    elif has_load:
        meter.clear_load()


def _numbers(values: dict[str, Any], **kinds: Kind) -> dict[str, float]:
    if values.keys() != kinds.keys():
        raise ConfigError([f"expects an object with {' and '.join(kinds)}"])
    return {name: read(name, kind, values[name]) for name, kind in kinds.items()}


def _json(body: bytes) -> object:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError(["the body is not JSON"]) from error
    return value


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError([f"expects an object, not {json.dumps(value)[:40]}"])
    return value
