"""EVerest's AsyncAPI document holds for every message we send."""

from __future__ import annotations

import asyncio
import functools
import re
from dataclasses import fields
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from iem_dcr.everest_api.topics import READY_BEACON, Topics
from iem_dcr.powermeter import TransactionReq
from iem_dcr.simulator import SimulatorOptions
from tests.support.api_bench import ApiBench, api_bench, request, start_payload
from tests.support.bench import SECRET, SERIAL
from tests.support.shared import shared
from tests.support.virtual_time import virtual

URI = "urn:powermeter_API"
START = "receive_request_start_transaction"
STOP = "receive_request_stop_transaction"
START_REPLY = "send_reply_start_transaction"
STOP_REPLY = "send_reply_stop_transaction"

formats = FormatChecker(formats=())


@formats.checks("date-time")
def is_rfc3339(value: object) -> bool:
    """RFC 3339 as every consumer in EVerest reads it rightly."""
    return not isinstance(value, str) or bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z", value))


@functools.cache
def document() -> Any:
    return yaml.safe_load(shared("everest/powermeter_API.yaml").read_text())


def problems(message: str, value: object) -> list[str]:
    """What is wrong with a value for a message of the document, by name."""
    assert message in document()["components"]["messages"]
    registry: Registry[Any] = Registry().with_resource(URI, DRAFT202012.create_resource(document()))
    schema = {"$ref": f"{URI}#/components/messages/{message}/payload"}
    validator = Draft202012Validator(schema, registry=registry, format_checker=formats)
    return [error.message for error in validator.iter_errors(value)]


def test_the_checks_find_what_is_wrong() -> None:
    assert problems(START_REPLY, {"status": "OK"}) == []
    assert problems(START_REPLY, {"status": "FINE"})
    assert problems("send_powermeter_values", {"timestamp": "2026-03-01", "energy_Wh_import": {"total": 1}})


def test_our_topics_are_the_documents() -> None:
    pathname = document()["servers"]["default"]["pathname"]
    channels = {name: each["address"] for name, each in document()["channels"].items() if each["address"]}
    topics = Topics("m1")
    ours = {
        START: topics.start,
        STOP: topics.stop,
        "receive_heartbeat": topics.heartbeat,
        "send_powermeter_values": topics.values,
        "send_public_key_ocmf": topics.key,
        "send_communication_check": topics.check,
    }
    assert {name: f"{pathname.format(module_id='m1')}/{address}" for name, address in channels.items()} == ours


def test_a_start_has_the_documents_fields() -> None:
    schema = document()["components"]["schemas"]["StartTransactionRequest"]
    assert {each.name for each in fields(TransactionReq)} == set(schema["properties"])


def check_all_sent(bench: ApiBench, replies: dict[str, str]) -> set[str]:
    """Hold everything that was published against the document; returns the messages that were sent."""
    messages = {
        bench.topics.values: "send_powermeter_values",
        bench.topics.key: "send_public_key_ocmf",
        bench.topics.check: "send_communication_check",
    } | replies
    for each in bench.bus.published:
        assert problems(messages[each.topic], each.value) == []
        if messages[each.topic] == STOP_REPLY and each.value["status"] == "OK":
            assert each.value["signed_meter_value"]["signed_meter_data"].startswith("OCMF|")
        if messages[each.topic] in (START_REPLY, STOP_REPLY) and each.value["status"] != "OK":
            assert each.value["error"]
    return {messages[each.topic] for each in bench.bus.published}


@pytest.mark.parametrize("bidirectional", [False, True])
@virtual
async def test_all_we_send_in_sessions_good_and_bad_is_as_the_document_says(bidirectional: bool) -> None:  # noqa: FBT001  as pytest hands it over
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, charge_s=2.0, bidirectional=bidirectional, current_a=-3.0)
    async with api_bench(options) as bench:
        await bench.until_live()
        replies = {}
        for transaction_id in ("T-1", "T-2"):
            reply_to = bench.start(transaction_id)
            replies[reply_to] = START_REPLY
            await bench.answer(reply_to)
            await asyncio.sleep(4)
            reply_to = bench.stop(transaction_id)
            replies[reply_to] = STOP_REPLY
            assert (await bench.answer(reply_to))["status"] == "OK"
        bad: list[object] = [None, {}, start_payload(evse_id=7), start_payload("T-3", evse_id="DE*1")]
        for number, payload in enumerate(bad):
            replies[f"bad/{number}"] = START_REPLY
            bench.bus.receive(bench.topics.start, request(payload, f"bad/{number}"))
        for payload in (None, "T-3", 7):
            replies[bench.stop(payload)] = STOP_REPLY
        bench.bus.receive(READY_BEACON, b"{}")
        bench.meter.power_cycle(off_s=30, boot_s=1)
        await asyncio.sleep(5)
        replies[bench.start("T-4")] = START_REPLY
        await asyncio.sleep(60)
        assert check_all_sent(bench, replies) == {
            START_REPLY,
            STOP_REPLY,
            "send_powermeter_values",
            "send_public_key_ocmf",
            "send_communication_check",
        }
        assert set(replies) <= {each.topic for each in bench.bus.published}
