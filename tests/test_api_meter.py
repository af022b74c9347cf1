"""A meter on EVerest's API: sessions, and requests of every kind; each is carried out once and answered once."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from iem_dcr.config import Settings
from iem_dcr.everest_api.meter_api import METER, MeterApi
from iem_dcr.everest_api.requests import MAX_AT_WORK, MAX_REFUSALS
from tests.support.api_bench import MODULE_ID, ApiBench, api_bench, request, start_payload
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import virtual

OK = {"status": "OK"}


def expect_refused(answer: dict[str, Any]) -> None:
    """See that a stop was told that its start was refused."""
    assert answer["status"] == "UNEXPECTED_ERROR"
    assert "refused" in answer["error"]
    assert "signed_meter_value" not in answer


async def begun(bench: ApiBench, transaction_id: str = "T-1") -> None:
    assert await bench.answer(bench.start(transaction_id)) == OK


async def settled(bench: ApiBench) -> None:
    """Let everything that is under way end."""
    await asyncio.sleep(1.5)


@virtual
async def test_a_session_has_its_receipt_and_only_replies_go_out_at_qos_1() -> None:
    async with api_bench() as bench:
        await bench.until_live()
        start = bench.start(reservation_id=7, customer={"language": "de"})  # fields of a later EVerest
        assert await bench.answer(start) == OK
        assert bench.running()
        await asyncio.sleep(5)
        stop = bench.stop()
        answer = await bench.answer(stop)
        [record] = bench.meter.signed
        [key] = bench.bus.on(bench.topics.key)
        assert (answer["status"], "error" in answer) == ("OK", False)
        assert answer["signed_meter_value"]["signed_meter_data"] == record.text
        assert answer["signed_meter_value"]["public_key"] == key.value
        assert not bench.running()
        values = bench.bus.on(bench.topics.values)
        assert values[-1].value["energy_Wh_import"]["total"] > values[0].value["energy_Wh_import"]["total"]
        await settled(bench)
        assert {each.topic for each in bench.bus.published if each.qos == 1} == {start, stop}


@virtual
async def test_every_form_of_stop_ends_what_runs_and_where_nothing_ever_ran_it_is_an_error() -> None:
    async with api_bench() as bench:
        await bench.until_live()
        answer = await bench.answer(bench.stop(""))  # as EVerest does when it starts
        assert (answer["status"], "signed_meter_value" in answer) == ("UNEXPECTED_ERROR", False)
        assert answer["error"]
        for number, stop in enumerate(("T-0", {"transaction_id": "T-1"}, "", {"transaction_id": ""})):
            await begun(bench, f"T-{number}")
            await asyncio.sleep(4)
            answer = await bench.answer(bench.stop(stop))
            assert answer["signed_meter_value"]["signed_meter_data"] == bench.meter.signed[-1].text
            assert f"04ABT-{number}" in bench.meter.signed[-1].text


@virtual
async def test_without_reply_to_nothing_is_answered_and_a_start_that_comes_twice_begins_one_transaction(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with api_bench() as bench:
        await bench.until_live()
        for number in (1, 2):
            for _ in range(3):
                bench.bus.receive(bench.topics.start, request(start_payload()))
                await settled(bench)
            assert bench.begun() == number
            bench.bus.receive(bench.topics.stop, request("T-1"))
            await asyncio.sleep(5)
            assert len(bench.meter.signed) == number
        assert caplog.text.count("came again and is ignored") == 4
        ours = {bench.topics.values, bench.topics.key, bench.topics.check}
        assert {each.topic for each in bench.bus.published} == ours


@virtual
async def test_a_session_that_a_broker_sends_again_leaves_nothing_running() -> None:
    async with api_bench() as bench:
        await bench.until_live()
        for _ in range(2):
            bench.bus.receive(bench.topics.start, request(start_payload()))
            await settled(bench)
            await bench.answer(bench.stop(reply_to="reply/stop"))
            await asyncio.sleep(5)
        assert (bench.begun(), bench.meter.state.ended, len(bench.bus.on("reply/stop"))) == (1, 1, 2)


@virtual
async def test_a_repeated_request_is_answered_again_and_the_meter_left_alone() -> None:
    async with api_bench() as bench:
        await bench.until_live()
        start = bench.start()
        await bench.answer(start)
        posts = bench.posts()
        for _ in range(3):
            await asyncio.sleep(190)
            again = {"payload": dict(reversed(start_payload().items())), "headers": {"replyTo": start}}
            bench.bus.receive(bench.topics.start, json.dumps(again, indent=2).encode())
            await settled(bench)
        assert [each.value for each in bench.bus.on(start)] == [OK] * 4
        assert bench.posts() == posts
        stop = bench.stop()
        first = await bench.answer(stop)
        await begun(bench, "T-2")
        bench.stop(reply_to=stop)
        await settled(bench)
        assert [each.value for each in bench.bus.on(stop)] == [first, first]
        assert bench.running()
        assert bench.begun() == 2


@pytest.mark.parametrize(("acknowledge_s", "pause_s"), [(0.005, 0.02), (5.0, 0.9)])
@virtual
async def test_a_request_repeated_while_it_is_at_work_or_its_answer_on_the_way_is_answered_once(
    acknowledge_s: float, pause_s: float
) -> None:
    async with api_bench() as bench:
        await bench.until_live()
        await begun(bench)
        bench.bus.acknowledge_s = acknowledge_s
        reply_to = bench.stop()
        for _ in range(5):
            bench.stop(reply_to=reply_to)
            await asyncio.sleep(pause_s)
        assert not bench.bus.on(reply_to)
        await bench.answer(reply_to)
        await asyncio.sleep(20)
        assert len(bench.bus.on(reply_to)) == 1
        assert bench.meter.state.ended == 1


@virtual
async def test_another_request_under_a_known_reply_to_gets_no_others_answer(caplog: pytest.LogCaptureFixture) -> None:
    async with api_bench() as bench:
        await bench.until_live()
        reply_to = bench.start()
        bench.stop(reply_to=reply_to)  # the start is still at work
        await settled(bench)
        assert [each.payload for each in bench.bus.on(reply_to)] == [b'{"status":"OK"}']
        assert "the replyTo of a running request" in caplog.text
        bench.stop(reply_to=reply_to)
        bench.bus.receive(bench.topics.start, request(7, reply_to))
        await settled(bench)
        others = [each.value for each in bench.bus.on(reply_to)[1:]]
        assert [answer["status"] for answer in others] == ["UNEXPECTED_ERROR"] * 2
        assert all("another request's" in answer["error"] for answer in others)
        assert bench.running()
        bench.start(reply_to=reply_to)
        await settled(bench)
        assert bench.bus.on(reply_to)[-1].payload == b'{"status":"OK"}'


@virtual
async def test_a_retained_request_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    async with api_bench() as bench:
        await bench.until_live()
        bench.bus.receive(bench.topics.start, request(start_payload(), "reply/1"), retained=True)
        await settled(bench)
        assert not bench.running()
        await begun(bench)
        bench.bus.receive(bench.topics.stop, request("T-1", "reply/2"), retained=True)
        await settled(bench)
        assert bench.running()
        assert not bench.bus.on("reply/1") + bench.bus.on("reply/2")
        assert caplog.text.count("retained") == 2


NO_STARTS: list[tuple[object, str]] = [
    (7, "must be an object"), (None, "must be an object"), ({}, "identification_flags is missing"),
    (start_payload(identification_flags=["RFID_PLAIN"] * 5), "4 are allowed"),
    (start_payload(identification_type="MAGIC"), "identification_type is"),
    (start_payload(transaction_id=7), "transaction_id must be a string"),
]  # fmt: skip


@virtual
async def test_what_is_no_start_and_no_stop_is_refused_with_a_reason_and_changes_nothing() -> None:
    async with api_bench() as bench:
        await bench.until_live()
        for number, (payload, reason) in enumerate(NO_STARTS):
            bench.bus.receive(bench.topics.start, request(payload, f"reply/{number}"))
            answer = await bench.answer(f"reply/{number}")
            assert answer["status"] == "UNEXPECTED_ERROR"
            assert reason in answer["error"]
            assert not bench.running()
        await begun(bench)
        for payload in (7, None, [], {}, {"transaction_id": 7}):
            answer = await bench.answer(bench.stop(payload))
            assert answer["status"] == "UNEXPECTED_ERROR"
            assert "transaction" in answer["error"]
            assert bench.running()


@pytest.mark.parametrize("how", ["NaN", "the replyTo of another", "the replyTo of a running one", "one too many"])
@virtual
async def test_the_stop_of_a_refused_start_gets_no_others_receipt(how: str) -> None:
    unanswered = request(start_payload("T-3"))
    async with api_bench() as bench:
        await bench.until_live()
        await begun(bench)
        await asyncio.sleep(4)
        stops = [bench.stop("T-1") for _ in range(MAX_AT_WORK if how == "one too many" else 1)]
        if how not in ("one too many", "the replyTo of a running one"):
            await bench.answer(stops[0])
        match how:
            case "NaN":
                refused = "reply/1"
                message = request(start_payload("T-2") | {"later": "@"}, refused).replace(b'"@"', b"NaN")
                bench.bus.receive(bench.topics.start, message)
            case "one too many":
                refused = bench.start("T-2")
                bench.bus.receive(bench.topics.start, unanswered)
            case _:
                refused = bench.start("T-2", reply_to=stops[0])
        await settled(bench)
        assert how.endswith("running one") or bench.bus.on(refused)[-1].value["status"] == "UNEXPECTED_ERROR"
        assert [(await bench.answer(stop))["status"] for stop in stops] == ["OK"] * len(stops)
        assert bench.begun() == 1
        bench.bus.receive(bench.topics.start, unanswered)  # if it came before, it was not begun and is no repetition
        await settled(bench)
        assert bench.begun() == 2
        expect_refused(await bench.answer(bench.stop("T-2")))


@virtual
async def test_more_requests_than_can_wait_are_refused_and_never_carried_out() -> None:
    async with api_bench(powered=False) as bench:
        await asyncio.sleep(1)
        topics = [bench.start(f"T-{number}") for number in range(MAX_AT_WORK + MAX_REFUSALS)]
        assert not [topic for topic in topics if bench.bus.on(topic)]
        await asyncio.sleep(1)
        refused = topics[MAX_AT_WORK:]
        assert all("too many requests" in bench.bus.on(topic)[0].value["error"] for topic in refused)
        assert not [topic for topic in topics[:MAX_AT_WORK] if bench.bus.on(topic)]
        await asyncio.sleep(60)
        assert all(len(bench.bus.on(topic)) == 1 for topic in topics)
        bench.start(f"T-{MAX_AT_WORK}", reply_to=refused[0])
        await settled(bench)
        assert [each.value["status"] for each in bench.bus.on(refused[0])] == ["UNEXPECTED_ERROR"] * 2
        await begun(bench, "T-new")
        await asyncio.sleep(4)
        assert (await bench.answer(bench.stop("T-new")))["status"] == "OK"
        answer = await bench.answer(bench.stop(f"T-{MAX_AT_WORK}"))
        assert answer["status"] == "UNEXPECTED_ERROR"
        assert "signed_meter_value" not in answer


@virtual
async def test_a_flood_grows_nothing_and_takes_no_place_from_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    async with api_bench() as bench:
        await bench.until_live()
        await begun(bench)
        await asyncio.sleep(3)
        bench.bus.acknowledge_s = 30.0
        caplog.clear()
        tasks = len(asyncio.all_tasks())
        reply_to = bench.stop()
        for number in range(2000):
            bench.bus.receive(bench.topics.start, request(number, f"flood/{number}"))
            bench.bus.receive(bench.topics.stop, b"\xff" * 100)
        await asyncio.sleep(5)
        assert len(asyncio.all_tasks()) <= tasks + MAX_REFUSALS + 1
        await asyncio.sleep(40)
        assert (await bench.answer(reply_to))["status"] == "OK"
        lines = [each for each in caplog.records if each.levelno >= logging.INFO]
        assert len(lines) < 25


@virtual
async def test_a_users_token_is_never_whole_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    token = f"{0xDEADBEEF0815CAFE:X}"
    caplog.set_level(logging.INFO)
    async with api_bench() as bench:
        await bench.until_live()
        for payload in (
            start_payload(identification_data=token),
            start_payload(identification_data=f"{token}|"),
            start_payload(identification_data=[token]),
            start_payload(identification_type=token),
            start_payload(identification_flags=[token]),
            token,
            [token],
            {"identification_data": token},
        ):
            bench.bus.receive(bench.topics.start, request(payload, "reply/1"))
            bench.bus.receive(bench.topics.start, request(payload))
            bench.bus.receive(bench.topics.start, request(payload)[:-1])
            bench.bus.receive(bench.topics.stop, request([token]))
            await asyncio.sleep(61)
    assert "DE…" in caplog.text
    assert token not in caplog.text
    assert token[:4] not in caplog.text


@virtual
async def test_every_line_is_written_in_the_meters_name(caplog: pytest.LogCaptureFixture) -> None:
    written = []

    def note(record: logging.LogRecord) -> bool:
        if record.name.startswith("iem_dcr"):
            written.append((METER.get(), record.getMessage()))
        return True

    caplog.handler.addFilter(note)
    caplog.set_level(logging.DEBUG, "iem_dcr")
    async with api_bench() as bench:
        await bench.until_live()
        await begun(bench)
        bench.bus.receive(bench.topics.start, b"{")
        bench.bus.receive(bench.topics.heartbeat, b"1")
        await asyncio.sleep(4)
        await bench.answer(bench.stop())
        bench.bus.disconnect()
        bench.bus.connect()
        bench.meter.power_cycle(off_s=10, boot_s=1)
        await asyncio.sleep(20)
    texts = "\n".join(text for _, text in written)
    for part in ("begun", "stop_transaction: OK", "no JSON", "heartbeat is there", "no live value"):
        assert part in texts
    assert {name for name, _ in written} == {MODULE_ID}
    assert METER.get() == ""


@pytest.mark.parametrize("module_id", ["", "a/b", "#"])
def test_a_module_id_that_cannot_stand_in_a_topic(module_id: str) -> None:
    with pytest.raises(ValueError, match="module_id"):
        MeterApi(module_id, Settings.of({"ip_address": "127.0.0.1"}), FakeBus())
