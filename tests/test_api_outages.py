"""The connection breaks, the work is cancelled, the work fails: every answer still goes out while somebody waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from iem_dcr.everest_api.replies import WAITED_FOR_S
from iem_dcr.simulator import SimulatorOptions
from tests.support.api_bench import ApiBench, api_bench, request, start_payload
from tests.support.bench import SECRET, SERIAL
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OK = {"status": "OK"}
STEPS = ("start taken", "start at work", "start answered", "charging", "stop taken", "stop at work", "stop answered")


class BreakableBus(FakeBus):
    """A bus with a mistake in it that can be switched on."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    def offer(self, topic: str, payload: bytes, *, good_for_s: float) -> None:
        if self.broken:
            raise RuntimeError("broken on purpose")
        super().offer(topic, payload, good_for_s=good_for_s)


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def a_session(bench: ApiBench, at: Callable[[str], Awaitable[None]]) -> list[str]:
    """A session that tells at which step it is. Returns the topics of the answers."""
    await bench.until_live()
    start = bench.start()
    await at("start taken")
    await asyncio.sleep(0.002)
    await at("start at work")
    await bench.answer(start)
    await at("start answered")
    await asyncio.sleep(5)
    await at("charging")
    stop = bench.stop()
    await at("stop taken")
    await asyncio.sleep(0.05)
    await at("stop at work")
    await bench.answer(stop)
    await at("stop answered")
    return [start, stop]


@pytest.mark.parametrize("away_s", [0.0, 0.3, 45.0])
@pytest.mark.parametrize("step", STEPS)
@virtual
async def test_the_connection_breaks_at_each_step_of_a_session(step: str, away_s: float) -> None:
    async with api_bench() as bench:

        async def at(reached: str) -> None:
            if reached == step:
                bench.bus.disconnect()
                asyncio.get_running_loop().call_later(away_s, bench.bus.connect)
                if not reached.endswith(("taken", "at work")):
                    await asyncio.sleep(away_s + 0.1)

        start, stop = await a_session(bench, at)
        await asyncio.sleep(2)
        [started], [stopped] = bench.bus.on(start), bench.bus.on(stop)
        assert started.value == OK
        assert stopped.value["signed_meter_value"]["signed_meter_data"] == bench.meter.signed[-1].text
        assert (bench.begun(), bench.meter.state.ended) == (1, 1)


@pytest.mark.parametrize("away_s", [WAITED_FOR_S - 0.5, WAITED_FOR_S + 1])
@virtual
async def test_an_answer_goes_out_up_to_the_last_moment_and_then_when_it_is_asked_for_again(
    away_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    async with api_bench() as bench:
        await bench.until_live()
        reply_to = bench.start()
        bench.bus.disconnect()
        await asyncio.sleep(away_s)
        bench.bus.connect()
        if away_s > WAITED_FOR_S:
            assert "given up" in caplog.text
            await asyncio.sleep(30)
            assert not bench.bus.on(reply_to)
            bench.start(reply_to=reply_to)
        assert await bench.answer(reply_to) == OK
        assert bench.begun() == 1


SLOW_TO_SIGN = SimulatorOptions(MS=SERIAL, private_key=SECRET, charge_s=2.0, signing_delay_s=30.0)


async def ended(bench: ApiBench, *, within_s: float) -> None:
    """Cancel the work, and see that it ends in time and leaves nothing."""
    before_s = now_s()
    bench.task.cancel()
    await asyncio.wait({bench.task})
    assert bench.task.cancelled()
    assert now_s() - before_s < within_s
    assert bench.bus.subscribed() == []
    assert not bench.api.takes_requests


@pytest.mark.parametrize("command", ["start", "stop"])
@virtual
async def test_what_is_at_work_or_comes_while_the_work_ends_is_answered(command: str) -> None:
    async with api_bench(SLOW_TO_SIGN) as bench:
        taken = [bench.api.takes_requests]
        await bench.until_live()
        assert [*taken, bench.api.takes_requests] == [False, True]
        replies = [bench.start()]
        if command == "stop":
            await bench.answer(replies.pop())
            await asyncio.sleep(3)
            replies = [bench.stop()]
            await asyncio.sleep(3)
            bench.bus.acknowledge_s = 0.3
            asyncio.get_running_loop().call_later(0.1, lambda: replies.append(bench.stop()))
        await ended(bench, within_s=1.5)
        assert [bench.bus.on(each)[0].value["status"] for each in replies] == ["UNEXPECTED_ERROR"] * len(replies)
        assert "the driver is stopping" in bench.bus.on(replies[0])[0].value["error"]


@pytest.mark.parametrize("times", [1, 2])
@virtual
async def test_the_end_does_not_wait_for_a_broker_that_is_gone_and_cancelled_twice_it_comes_at_once(times: int) -> None:
    async with api_bench() as bench:
        await bench.until_live()
        bench.start()
        bench.bus.disconnect()
        await asyncio.sleep(2)
        if times == 2:
            asyncio.get_running_loop().call_later(0.2, bench.task.cancel)
        await ended(bench, within_s=1.6 if times == 1 else 0.3)


async def failed(bench: ApiBench, bus: BreakableBus) -> None:
    """Let the work fail, and see that nothing of it is left."""
    bus.broken = True
    await asyncio.wait({bench.task})
    bus.broken = False
    with pytest.raises(RuntimeError, match="broken on purpose"):
        await bench.task
    assert bus.subscribed() == []


@virtual
async def test_run_again_after_it_failed_it_goes_on_and_an_answer_that_did_not_go_out_goes_out() -> None:
    bus = BreakableBus()
    async with api_bench(bus=bus) as bench:
        await bench.until_live()
        await bench.answer(bench.start())
        await asyncio.sleep(4)
        reply_to = bench.stop()
        bus.disconnect()
        await asyncio.sleep(3)
        await failed(bench, bus)
        bus.connect()
        again_s = now_s()
        bench.run_again()
        answer = await bench.answer(reply_to)
        assert answer["signed_meter_value"]["signed_meter_data"] == bench.meter.signed[-1].text
        for topic in (bench.topics.values, bench.topics.check, bench.topics.key):
            await bench.until(topic, after_s=again_s - 0.001)
        await asyncio.sleep(5)
        assert len(bus.on(reply_to)) == 1
        assert bench.meter.state.ended == 1


@virtual
async def test_a_cancellation_from_within_is_a_failure_after_which_an_answer_still_goes_out() -> None:
    async with api_bench() as bench:
        await bench.until_live()
        await bench.answer(bench.start())
        await asyncio.sleep(4)
        reply_to = bench.stop()
        bench.bus.disconnect()
        await asyncio.sleep(3)
        (driving,) = [task for task in asyncio.all_tasks() if "MeterDriver.run" in repr(task.get_coro())]
        driving.cancel()
        await asyncio.wait({bench.task})
        bench.bus.connect()
        bench.run_again()
        answer = await bench.answer(reply_to)
        assert answer["signed_meter_value"]["signed_meter_data"] == bench.meter.signed[-1].text


@virtual
async def test_what_was_at_work_when_it_failed_is_answered() -> None:
    bus = BreakableBus()
    async with api_bench(SLOW_TO_SIGN, bus=bus) as bench:
        await bench.until_live()
        await bench.answer(bench.start())
        await asyncio.sleep(3)
        reply_to = bench.stop()
        await asyncio.sleep(1)
        waiting = bench.start("T-2")
        await failed(bench, bus)
        assert [bus.on(topic)[0].value["status"] for topic in (reply_to, waiting)] == ["UNEXPECTED_ERROR"] * 2
        bench.run_again()
        await asyncio.sleep(40)
        answer = await bench.answer(bench.stop())
        assert answer["signed_meter_value"]["signed_meter_data"] == bench.meter.signed[-1].text
        assert (bench.begun(), bench.meter.state.ended) == (1, 1)


@virtual
async def test_a_command_that_fails_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_request: object) -> None:
        raise RuntimeError("broken on purpose")

    async with api_bench() as bench:
        await bench.until_live()
        with monkeypatch.context() as patched:
            patched.setattr(bench.api.driver, "start_transaction", fail)
            answer = await bench.answer(bench.start())
        assert answer == {"status": "UNEXPECTED_ERROR", "error": "internal error: RuntimeError"}
        assert await bench.answer(bench.start("T-2")) == OK


@virtual
async def test_after_a_restart_a_start_that_was_interrupted_leaves_nothing_running() -> None:
    bus = BreakableBus()
    async with api_bench(bus=bus) as bench:
        await bench.until_live()
        bus.receive(bench.topics.start, request(start_payload(), "reply/1"))
        await asyncio.sleep(0.001)
        await failed(bench, bus)
        bench.run_again()
        await asyncio.sleep(30)
        told = bus.on("reply/1")[0].value["status"]
        assert bench.running() == (told == "OK")
