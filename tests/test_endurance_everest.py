"""The EVerest module in the simulation: its handlers wait in virtual time, and one thread runs at a time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from endurance.plan import MODULE, SessionPlan, Step, make, start_request, step
from endurance.running import carry_out
from iem_dcr.driver import MeterDriver
from iem_dcr.driver.driver import START_S
from iem_dcr.everest.module import HANDLER_MARGIN_S

if TYPE_CHECKING:
    from endurance.plan import Plan
    from endurance.station import Call
    from endurance.world import World

REQUEST = start_request("T-1", "04A1")


def planned(*steps: Step) -> Plan:
    plan = next(plan for plan in map(make, range(20)) if plan.kind == MODULE)
    return replace(plan, sessions=(SessionPlan(0, 10.0, steps),))


def first(world: World, command: str) -> Call:
    return next(call for call in world.calls if call.command == command)


def test_a_handler_waits_for_its_deadline_in_virtual_time() -> None:
    events: list[str] = []

    async def never(_self: MeterDriver, _value: object) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    with patch.object(MeterDriver, "start_from_json", never):
        world = carry_out(planned(step(1.0, "start", request=REQUEST)))
    call = first(world, "start")
    assert call.answer == {"status": "UNEXPECTED_ERROR", "error": "the meter did not do it in time"}
    assert call.answered_s == 1.0 + START_S + HANDLER_MARGIN_S
    assert events == ["cancelled"] * len([call for call in world.calls if call.command == "start"])


def test_two_handlers_work_at_once() -> None:
    steps = step(1.0, "start", request=REQUEST), step(1.0, "stop", transaction_id="T-1")
    world = carry_out(planned(*steps))
    start, stop = first(world, "start"), first(world, "stop")
    assert start.asked_s == stop.asked_s == 1.0
    assert start.ok
    assert stop.ok
    assert stop.tuple_text is not None
    assert '"ID":"04A1"' in stop.tuple_text


def test_a_waiting_command_is_answered_when_the_module_ends() -> None:
    steps = (
        step(1.0, "network_swallows", for_s=5.0),
        step(1.0, "start", request=REQUEST),
        step(2.0, "restart", away_s=1.0),
    )
    world = carry_out(planned(*steps))
    call = first(world, "start")
    assert call.answer == {"status": "UNEXPECTED_ERROR", "error": "the driver is stopping"}
    assert call.answered_s == 2.0


def test_a_waiting_command_is_not_answered_when_the_module_is_killed() -> None:
    steps = (
        step(1.0, "network_swallows", for_s=5.0),
        step(1.0, "start", request=REQUEST),
        step(2.0, "kill", away_s=1.0),
    )
    call = first(carry_out(planned(*steps)), "start")
    assert call.answer is None
    assert call.excused == "its process was killed"
