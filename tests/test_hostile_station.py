"""A station that sends what it likes: each command is answered once, as EVerest defines it, and the log stays fit."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr import ocmf
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import SimulatedMeter, SimulatorOptions
from tests.support.api_bench import start_payload
from tests.support.bench import SECRET, SERIAL, bench
from tests.support.bench import request as start_request
from tests.support.device_api import problems as problems_of_body
from tests.support.device_api import request_schema
from tests.support.everest_bench import definition
from tests.support.everest_types import problems
from tests.support.hostile_meter import ESCAPES
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = TransactionRequestStatus.OK
LONGEST_LINE = 800
TEXTS = [
    "", " ", "x", "x" * 41, "y" * 251, "z" * 40_000, "a|b", "0,49 €/kWh", "ÄÖÜß", "\u0663\u0664", "🔌" * 50, ESCAPES,
    "\x00", "\ud800", "\u202e", "%s %n {0} {}", "'; DROP TABLE receipts; --", "../../../etc/passwd", "null", "T-1",
    "\n\n\n", "e\u0301" * 100, "\ufeff",
]  # fmt: skip
OTHERS: list[object] = [
    None, True, 0, -1, 2**63, 10**30, 1.5, -0.0, 1e308, [], [[]], {}, {"transaction_id": {}}, ["T-1"],
]  # fmt: skip
CARD = "5EC2E7F00D{:04}"
QUICK: dict[str, Any] = {
    "MS": SERIAL, "private_key": SECRET, "charge_s": 0.2, "load_delay_s": 0.0, "signing_delay_s": 0.02,
}  # fmt: skip


def starts(rng: random.Random, number: int) -> Any:
    """Make the payload of a start with up to three things wrong in it, or something else altogether."""
    if rng.random() < 0.1:
        return rng.choice([*TEXTS, *OTHERS])
    payload = start_payload(f"T-{number}", identification_data=CARD.format(number))
    for _ in range(rng.randint(0, 3)):
        key = rng.choice([*payload, "identification_level", "later", ""])
        match rng.randrange(4):
            case 0:
                payload.pop(key, None)
            case 1:
                payload[key] = rng.choice(OTHERS)
            case _:
                payload[key] = rng.choice(TEXTS)
    return payload


def stops(rng: random.Random, number: int) -> Any:
    return rng.choice([*TEXTS, *OTHERS, *[f"T-{number}"] * 20])


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """See at the end that all that was logged is fit to be read, and that no token is whole in it."""
    caplog.set_level(logging.DEBUG, "iem_dcr")
    yield
    lines = [
        (record, record.getMessage()) for record in caplog.get_records("call") if record.name.startswith("iem_dcr")
    ]
    assert len(lines) > 10
    for record, line in lines:
        assert not record.exc_info, line
        assert line.isprintable(), line
        assert len(line) <= LONGEST_LINE, line
        assert record.levelno < logging.INFO or CARD[:6] not in line, line


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    """Yield what was posted to the meter, and see at the end that all of it is what a meter is known to take."""
    posted: list[tuple[str, Any]] = []
    handle = SimulatedMeter.handle

    def noted(meter: SimulatedMeter, method: str, path: str, body: bytes = b"") -> Any:
        if method == "POST":
            posted.append((path, json.loads(body)))
        return handle(meter, method, path, body)

    monkeypatch.setattr(SimulatedMeter, "handle", noted)
    yield posted
    assert len(posted) > 20
    for path, body in posted:
        assert problems_of_body(request_schema(path), body) == []


def assert_answer(command: str, answer: Any) -> None:
    """It is what EVerest takes for an answer, and can be shown to anybody."""
    assert problems(definition("powermeter")["cmds"][command]["result"], answer) == []
    assert answer["status"] in {*TransactionRequestStatus}
    error = answer.get("error", "")
    assert error.isprintable()
    assert len(error) <= LONGEST_LINE
    assert json.loads(json.dumps(answer, allow_nan=False).encode()) == answer


@virtual
async def test_the_driver_answers_everything(log: None, bodies: list[tuple[str, Any]]) -> None:
    rng = random.Random(4711)
    async with bench(SimulatorOptions(**QUICK)) as b:
        await b.until_live()
        begun = 0
        for number in range(120):
            started = await b.driver.start_from_json(starts(rng, number))
            assert_answer("start_transaction", started.to_json())
            begun += started.status is OK
            await asyncio.sleep(rng.choice((0, 0.3, 2.0)))
            stopped = await b.driver.stop_from_json(stops(rng, number))
            assert_answer("stop_transaction", stopped.to_json())
        assert 20 < begun < 100
        assert not b.task.done()
        await b.driver.stop_transaction("")
        assert (await b.driver.start_transaction(start_request("T-last"))).status is OK
        await asyncio.sleep(2)
        stopped = await b.driver.stop_transaction("T-last")
        assert stopped.signed_meter_value is not None
        assert stopped.signed_meter_value.signed_meter_data == b.meter.signed[-1].text
        assert ocmf.parse(b.meter.signed[-1].text).identification == "04ABT-last"
