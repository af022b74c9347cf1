"""The description of the meter's REST interface: it is OpenAPI and has what the simulator and real meters answer."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click
import pytest
from openapi_spec_validator import validate

from iem_dcr.device import messages
from iem_dcr.diagnostics import nodes
from iem_dcr.simulator import Answer, SimulatedMeter, SimulatorOptions
from iem_dcr.simulator.nodes import METHODS
from iem_dcr.simulator.options import OBIS_CODES
from tests.support.bench import meter_options
from tests.support.device_api import API, FILE, V1, answer_schema, operations, problems, resolved
from tests.support.recorded import FIRMWARE, Recording
from tests.support.shared import shared
from tests.test_docs import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KNOWN = {"captured", "vendor-text", "vendor-driver", "vendor-tests", "inferred", "unknown"}
TIME = "2026-03-01T12:00:00,000+0100"
USER = {"IS": True, "IL": "HEARSAY", "IF": ["RFID_PLAIN"], "IT": "ISO14443", "ID": "04A2B3C4", "US": False}


def assert_described(method: str, path: str, status: int, content_type: str, body: bytes) -> None:
    responses = API["paths"][path][method.lower()]["responses"]
    response = resolved(responses.get(str(status)) or responses[f"{status // 100}XX"])
    if "content" not in response:
        assert body == b"", (method, path, status)
        return
    kind = content_type.partition(";")[0]
    assert kind in response["content"], (method, path, status, kind)
    value = json.loads(body) if kind == "application/json" and not is_no_json(body) else body.decode()
    assert problems(response["content"][kind]["schema"], value) == [], (method, path, body)


def is_no_json(body: bytes) -> bool:
    """Braces or quotes around a tuple are no JSON, although the meter's media type says so."""
    return body.startswith((b"{OCMF|", b'"OCMF|{"'))


# --- the file itself --------------------------------------------------------------------------------------------------


def test_it_is_openapi() -> None:
    assert API["openapi"].startswith("3.1")
    validate(API)


def known(value: Any) -> Iterator[object]:
    """Yield every x-known below a value."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from [one] if key == "x-known" else known(one)


def test_every_part_says_how_it_is_known() -> None:
    assert set(known(API)) == KNOWN
    for method, path, operation in operations():
        assert operation["x-known"] in KNOWN, (method, path)
        for status, response in operation["responses"].items():
            assert resolved(response)["x-known"] in KNOWN, (method, path, status)


def test_examples_are_valid() -> None:
    count = 0
    for method, path, operation in operations():
        contents = [operation.get("requestBody", {}).get("content", {})]
        contents += [resolved(response).get("content", {}) for response in operation["responses"].values()]
        for content in (one for kinds in contents for one in kinds.values()):
            examples = [one["value"] for one in content.get("examples", {}).values()]
            for value in [*examples, *([content["example"]] if "example" in content else [])]:
                assert problems(content["schema"], value) == [], (method, path)
                count += 1
    assert count > 8


def test_all_nodes_are_described() -> None:
    described = {(method, path) for method, path, _ in operations()}
    served = {(method, V1 + node) for node, methods in METHODS.items() for method in methods}
    assert described == served | {("GET", nodes.TRANSACTION_V2.path)}
    always = {path for method, path, operation in operations() if operation["tags"] == ["always"]}
    assert always == {node.path for node in nodes.ALL if node.always}
    assert {path for method, path, _ in operations() if method == "GET"} == {node.path for node in nodes.ALL}


def test_table_of_nodes_agrees() -> None:
    rows = table("device-api.md", "| node | method | when | known | what |")
    page = {
        (method, node.strip("`") if "v2" in node else V1 + node.strip("`")): (when, known)
        for node, method, when, known, _ in rows
        if not node.startswith("-")
    }
    assert page == {
        (method, path): (operation["tags"][0], operation["x-known"]) for method, path, operation in operations()
    }


# --- the simulator ----------------------------------------------------------------------------------------------------


OUTSIDE_OF_THE_DOCUMENT = ("xt_type", "number_type", "register_type", "unset_time", "milliseconds", "xc_blanks")
"""Knobs that make a meter write what the document, which has what is known, does not have."""


def knobs() -> Iterator[dict[str, Any]]:
    """Every knob at every value that it can have, of numbers at some."""
    yield {}
    for option in fields(SimulatorOptions):
        kind = option.metadata["type"]
        if option.name in OUTSIDE_OF_THE_DOCUMENT:
            continue
        if isinstance(kind, click.Choice):
            yield from ({option.name: value} for value in kind.choices if value not in ("nothing", "null"))
        elif isinstance(kind, click.types.BoolParamType):
            yield from ({option.name: value} for value in (True, False))
    yield {"RD_rows": ()}
    yield from ({"RD_rows": (code,)} for code in OBIS_CODES)
    yield {"XC": "0x0001, 0x00000100, 0xff, 0x01", "XS": "0x0000004000000004", "ST": "F", "EF": "Et"}
    yield {"current_a": -125.0, "power_decimals": 3, "U1": 1.089, "import_wh": 10**9, "export_wh": 999_999_999}
    yield {"user_id_limit": 2, "tariff_text_limit": 2}


def walked(options: dict[str, Any]) -> Iterator[tuple[str, str, Answer]]:
    """Lead a meter through everything: before and in a transaction, while it signs, after a power cut; refusals too."""
    now = [0.0]
    meter = SimulatedMeter(meter_options(**options), monotonic=lambda: now[0])

    def ask(method: str, path: str, body: object = None) -> tuple[str, str, Answer]:
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        return method, path, meter.handle(method, path, content)

    def look(after_s: float = 0.0) -> Iterator[tuple[str, str, Answer]]:
        now[0] += after_s
        for node in nodes.ALL:
            yield ask("GET", node.path)

    begin, end, gateway = {"TX": "B"}, {"TX": "E"}, {"CT": "EVSEID", "CI": "DE*ABC*E1*1", "TM": TIME}
    set_up = [("gw", gateway), ("gw", gateway), ("datetime", {"TM": TIME}), ("tariff", {"TT": "0.49 EUR/kWh"})]
    users = [("user", USER | {"TT": "0.50 EUR/kWh"}), ("user", USER)]
    yield from look()
    mistaken: list[object] = [b"no json", {"TX": "X"}, {}, []]
    for body in mistaken:
        yield from (ask(method, path, body) for method, path, _ in operations() if method == "POST")
    for node, said in (*set_up, *users, ("receipt", end), ("receipt", begin), ("receipt", begin)):
        yield ask("POST", f"{V1}/{node}", said)
    yield from look(4.0)
    yield ask("POST", f"{V1}/receipt", end)
    now[0] += 60.0
    yield ask("POST", f"{V1}/receipt", end)
    yield from look()
    yield from look(60.0)
    yield ask("POST", f"{V1}/receipt", begin)
    meter.power_cycle(1.0, 1.0)
    yield from look(10.0)
    yield from look(10.0)


@pytest.mark.parametrize("options", list(knobs()), ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()))
def test_the_simulator_answers_as_described(options: dict[str, Any]) -> None:
    statuses = set()
    for method, path, told in walked(options):
        assert_described(method, path, told.status, told.content_type, told.body)
        statuses.add(told.status)
    assert {200, 400, 404, 428} <= statuses


def test_difference_from_the_description_is_noticed() -> None:
    path = f"{V1}/metervalue"
    value = API["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["example"]
    assert problems(answer_schema(path), value) == []
    twice = [value["RD"][0], value["RD"][0] | {"RV": "00000000.000"}]
    for changes in ({"XT": 1}, {"U2": "1"}, {"TM": "now"}, {"RD": [{"RV": 1.0}]}, {"XC": "0x0"}, {"RD": twice}):
        body = json.dumps(value | changes).encode()
        with pytest.raises(AssertionError):
            assert_described("GET", path, 200, "application/json", body)


# --- real meters, recordings, and what the client sends ---------------------------------------------------------------


def test_captured_answers_and_genuine_receipts_are_described() -> None:
    for node in ("gw", "metervalue", "publickey"):
        assert_described("GET", f"{V1}/{node}", 200, "application/json", shared(f"device/{node}.json").read_bytes())
    for name in ("iem-dcr-2025-unpadded-der.ocmf", "iem-dcr-2023-raw-signature.xml"):
        found = re.search(r"OCMF\|.*\}", shared(f"receipts/{name}").read_text("utf-8"))
        assert found
        assert_described("GET", f"{V1}/transaction", 200, "text/plain", found[0].encode())


def test_no_data_of_a_real_meter() -> None:
    texts = [path.read_text("utf-8") for path in (FILE, FILE.with_name("device-api.md"))]
    metervalue, key = (json.loads(shared(f"device/{node}.json").read_bytes()) for node in ("metervalue", "publickey"))
    secrets = [metervalue["MS"], key["PK"][-128:]]
    for path in shared("receipts").iterdir():
        receipt = path.read_text("utf-8")
        secrets += re.findall(r'"(?:GS|MS|ID|SD|CI)"\s*:\s*"([^"]{4,})"', receipt)
        secrets += re.findall(r"[0-9A-Fa-f]{64,}", receipt)
    assert len(secrets) > 10
    assert [one for one in secrets if any(one.lower() in text.lower() for text in texts)] == []


@pytest.mark.parametrize("name", sorted(folder.name for folder in FIRMWARE.iterdir() if folder.is_dir()))
def test_recorded_firmware_answers_as_described(name: str) -> None:
    for path, told in Recording.load(FIRMWARE / name).answers.items():
        kind = dict(told.headers)["Content-Type"]
        assert_described("GET", path, told.status, kind, told.body)


# --- what the client reads; what is not described: `tests.test_device_messages` ---

READERS: dict[str, Callable[[object], object]] = {
    "/gw": messages.gateway,
    "/metervalue": messages.meter_value,
    "/publickey": messages.public_key,
    "/datetime": messages.datetime_answer,
}


@pytest.mark.parametrize("node", READERS)
def test_what_is_described_is_read(node: str) -> None:
    content = API["paths"][V1 + node]["get"]["responses"]["200"]["content"]["application/json"]
    for example in [*(one["value"] for one in content.get("examples", {}).values()), content.get("example")]:
        assert example is None or READERS[node](messages.decode(json.dumps(example).encode())) is not None
