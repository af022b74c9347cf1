"""What EVerest is told of a meter unasked: that it can be reached, its key, its values; again where it may not know."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from iem_dcr.driver.meter_state import COMMUNICATION_FAULT, ERROR_STATE, VENDOR_ERROR, WRONG_SERIAL
from iem_dcr.everest_api.status_publisher import RESPONSE_TIMEOUT_S, StatusPublisher
from iem_dcr.everest_api.topics import READY_BEACON, Topics
from iem_dcr.powermeter import StationError
from iem_dcr.simulator import SimulatorOptions
from iem_dcr.simulator.faults import Fault
from tests.support.api_bench import ApiBench, api_bench
from tests.support.bench import SECRET, SERIAL
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import virtual

OFF = {"off_s": 20.0, "boot_s": 3.0}


def checks(bench: ApiBench, since_s: float = -1.0) -> list[float]:
    """When the check was sent; it is never anything but true."""
    sent = bench.bus.on(bench.topics.check)
    assert {each.payload for each in sent} <= {b"true"}
    return [each.at_s for each in sent if each.at_s > since_s]


def now_s() -> float:
    return asyncio.get_running_loop().time()


# --- the check ---


@virtual
async def test_the_check_comes_with_the_first_value_and_every_two_seconds_through_a_session() -> None:
    async with api_bench(SimulatorOptions(MS=SERIAL, private_key=SECRET, charge_s=40.0, signing_delay_s=8.0)) as bench:
        await bench.until_live()
        await bench.until(bench.topics.check)
        first = bench.bus.events.index(("publish", bench.topics.check))
        subscribed = {topic for event, topic in bench.bus.events[:first] if event == "subscribe"}
        assert subscribed == {bench.topics.start, bench.topics.stop, bench.topics.heartbeat, READY_BEACON}
        await bench.answer(bench.start())
        await asyncio.sleep(30)
        await bench.answer(bench.stop())
        sent = checks(bench)
        assert sent[0] - bench.bus.on(bench.topics.values)[0].at_s < 0.1
        assert max(later - earlier for earlier, later in pairwise(sent)) < 2.1
        assert len(sent) < now_s() / 2 + 5
        assert bench.api.reachable


@pytest.mark.parametrize("why", ["no power", "another serial", "no live value"])
@virtual
async def test_no_check_before_the_meter_has_given_a_live_value_and_then_at_once(why: str) -> None:
    own = "1ISA0000000000"
    async with api_bench(powered=why != "no power", meter_serial=own if why == "another serial" else "") as bench:
        if why == "no live value":  # whatever else it answers
            bench.meter.faults.add(Fault("server-error", node="/metervalue", count=8))
        await asyncio.sleep(20)
        assert not checks(bench) + bench.bus.on(bench.topics.values)
        assert not bench.api.reachable
        if why == "another serial":
            bench.meter.configure(MS=own)
        value = await bench.until(bench.topics.values)
        check = await bench.until(bench.topics.check)
        assert 0 <= check.at_s - value.at_s < 0.1


@virtual
async def test_the_check_is_withheld_while_the_meter_is_away_and_back_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with api_bench() as bench:
        await bench.until_live()
        await asyncio.sleep(5)
        gone_s = now_s()
        bench.meter.power_cycle(**OFF)
        await asyncio.sleep(15)
        assert not bench.api.reachable
        before = len(bench.bus.published)
        bench.bus.receive(READY_BEACON, b"")
        assert [each.topic for each in bench.bus.published[before:]] == [bench.topics.key]
        assert max(checks(bench)) < gone_s + RESPONSE_TIMEOUT_S
        assert "communication_check is withheld" in caplog.text
        back = await bench.until(bench.topics.values, after_s=gone_s + 15)
        check = await bench.until(bench.topics.check, after_s=gone_s + 15)
        assert abs(check.at_s - back.at_s) < 0.1
        await asyncio.sleep(10)
        assert max(later - earlier for earlier, later in pairwise(checks(bench, gone_s + 15))) < 2.1


@virtual
async def test_another_meter_that_comes_back_is_not_reached_for_a_moment() -> None:
    serial = SERIAL
    async with api_bench(meter_serial=serial) as bench:
        await bench.until_live()
        gone_s = now_s()
        bench.meter.power_cycle(**OFF)
        bench.meter.configure(MS="1SIM0000000099")
        await asyncio.sleep(60)
        assert not checks(bench, gone_s + RESPONSE_TIMEOUT_S)
        bench.meter.configure(MS=serial)
        await asyncio.sleep(5)
        assert bench.api.reachable


@virtual
async def test_when_a_meter_counts_as_reached_and_whose_key_is_told() -> None:
    heard_s, keys, bus = list[float | None]([None]), ["3059aa"], FakeBus()
    publisher = StatusPublisher(Topics("m"), bus, lambda: heard_s[-1], lambda: keys[-1])

    def reachable() -> bool:
        return publisher.reachable

    assert not reachable()
    heard_s.append(now_s())
    await asyncio.sleep(RESPONSE_TIMEOUT_S - 0.01)
    assert reachable()
    await asyncio.sleep(0.01)
    assert not reachable(), "four seconds after any answer"
    heard_s.append(now_s())
    for error_type, sub_type, is_harmless in (
        (COMMUNICATION_FAULT.type, COMMUNICATION_FAULT.sub_type, False),
        (VENDOR_ERROR, WRONG_SERIAL, False),
        (VENDOR_ERROR, ERROR_STATE, True),
    ):
        publisher.raise_error(StationError(error_type, sub_type, "what happened"))
        assert reachable() is is_harmless
        publisher.clear_error(StationError(error_type, sub_type, "what happened"))
        assert reachable()
    publisher.announce()
    keys.append("")  # the meter was exchanged
    publisher.announce()
    assert len(bus.on(Topics("m").key)) == 1


# --- the key, and all there is, again ---


async def beats(bench: ApiBench, *numbers: int) -> int:
    """Let EVerest's heart beat every second; returns how many keys there are then."""
    for number in numbers:
        bench.bus.receive(bench.topics.heartbeat, str(number).encode())
        await asyncio.sleep(1)
    return len(bench.bus.on(bench.topics.key))


@virtual
async def test_the_key_is_sent_once_and_again_when_everest_may_have_lost_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with api_bench() as bench:
        await bench.until_live()
        await asyncio.sleep(30)
        assert await beats(bench) == 1
        sent = len(checks(bench))
        bench.bus.receive(READY_BEACON, b"")
        assert len(checks(bench)) == sent + 1
        assert await beats(bench) == 2
        assert await beats(bench, *range(1, 30)) == 3  # a heartbeat begins
        await asyncio.sleep(3.9)
        assert await beats(bench, 30) == 3
        await asyncio.sleep(10)
        assert "heartbeat is away" in caplog.text
        assert await beats(bench, 31, 32) == 4  # it is back
        assert await beats(bench, 2**64 - 1, 0, 1) == 5  # its number falls
        assert await beats(bench, 2**64 - 1, 2**63, 42) == 7
        assert len({each.payload for each in bench.bus.on(bench.topics.key)}) == 1


NO_HEARTBEATS = [
    b"", b"-1", b"1.0", b"true", b"null", b'"7"', b"\xff", b"9" * 5000, b"1e3", b"{}", b"NaN", "٣".encode(),
]  # fmt: skip


@virtual
async def test_a_heartbeat_that_is_none_is_ignored() -> None:
    async with api_bench() as bench:
        await bench.until_live()
        before = await beats(bench)
        for message in NO_HEARTBEATS:
            bench.bus.receive(bench.topics.heartbeat, message)
        bench.bus.receive(bench.topics.heartbeat, b"7", retained=True)
        assert await beats(bench) == before
        bench.bus.receive(bench.topics.heartbeat, b" 7\n")
        assert await beats(bench) == before + 1


@virtual
async def test_after_a_reconnection_everything_at_once() -> None:
    async with api_bench() as bench:
        await bench.until_live()
        await asyncio.sleep(0.5)
        bench.bus.disconnect()
        await asyncio.sleep(10)
        before = len(bench.bus.published)
        bench.bus.connect()
        again = bench.bus.published[before:]
        assert {each.topic for each in again} == {bench.topics.check, bench.topics.key, bench.topics.values}
        assert len(again) == 3
        assert {each.at_s for each in again} == {now_s()}


@virtual
async def test_the_meter_is_read_without_a_broker() -> None:
    async with api_bench() as bench:
        await bench.until_live()
        before = bench.meter.request_counts["GET", "/metervalue"]
        bench.bus.disconnect()
        await asyncio.sleep(60)
        assert bench.meter.request_counts["GET", "/metervalue"] - before >= 59
