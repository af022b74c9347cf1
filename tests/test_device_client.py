"""The meter's client: what it sends for every node, and what it makes of every answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from iem_dcr.device.client import MeterClient
from iem_dcr.device.messages import Gateway, PublicKey, User
from iem_dcr.errors import MeterError, MeterTimeoutError, NotUnderstoodError, RefusedError
from iem_dcr.meter_time import MeterTime
from tests.support.meter_client import CLOCK, TIME, TM, connected, failure, now_s
from tests.support.raw_server import Do, Then, answer
from tests.support.virtual_time import virtual

TUPLE = 'OCMF|{"FV":"1.0","TT":"a\\u00e4 é |"}|{"SD":"00"}'
RECEIPT = answer(TUPLE.encode())
VALUE = {
    "MS": "1TST0000000001", "TM": f"{TM} S", "XT": False, "U2": 400, "I": 0, "P": 0, "XC": "0x0000",
    "RD": [{"RV": "00000446.540", "RI": "1-b:1.8.e", "RU": "kWh", "RT": "DC"}],
}  # fmt: skip
USER = User(IS=True, IL="NONE", IF=("RFID_PLAIN",), IT="ISO14443", ID="04AABB", US=False, TT="0,42 EUR/kWh")
V1, V2 = "/counter/v1/ocmf", "/counter/v2/ocmf"
DONE = answer()

GETS: list[tuple[str, Any, Any, Any]] = [
    ("/gw", MeterClient.gw, {"CT": "", "CI": "", "TM": TM}, Gateway("", "", MeterTime(TIME.instant))),
    ("/datetime", MeterClient.datetime, CLOCK, TIME),
    ("/datetime", MeterClient.datetime, {"TM": "0000-00-00T00:00:00,000+0000"}, None),
    ("/publickey", MeterClient.publickey, {"SA": "ECDSA", "PK": "00FF"}, PublicKey("ECDSA", "00FF")),
]
POSTS: list[tuple[str, Any, bytes]] = [
    ("/gw", lambda c: c.set_gw("EVSEID", "DE*1", TM), b'{"CT":"EVSEID","CI":"DE*1","TM":"' + TM.encode() + b'"}'),
    ("/tariff", lambda c: c.set_tariff('0,42 €"\n'), b'{"TT":"0,42 \\u20ac\\"\\n"}'),
    ("/datetime", lambda c: c.set_datetime(TM), b'{"TM":"' + TM.encode() + b'"}'),
    (
        "/user",
        lambda c: c.set_user(USER),
        b'{"IS":true,"IL":"NONE","IF":["RFID_PLAIN"],"IT":"ISO14443","ID":"04AABB","US":false,"TT":"0,42 EUR/kWh"}',
    ),
    ("/receipt", MeterClient.begin, b'{"TX":"B"}'),
    ("/receipt", MeterClient.end, b'{"TX":"E"}'),
]


@pytest.mark.parametrize(("node", "call", "said", "read"), GETS)
@virtual
async def test_a_get_is_one_request_and_its_answer_is_read(node: str, call: Any, said: object, read: object) -> None:
    async with connected(answer(said)) as (client, server):
        assert await call(client) == read
        (request,) = server.requests
        assert request.head.startswith(f"GET {V1}{node} HTTP/1.1\r\n".encode())
        assert request.headers == {"host": f"127.0.0.1:{server.port}", "connection": "close"}
        assert request.body == b""


@pytest.mark.parametrize(("node", "call", "body"), POSTS)
@virtual
async def test_a_post_is_one_request_with_its_body(node: str, call: Any, body: bytes) -> None:
    async with connected(DONE) as (client, server):
        assert await call(client) is None
        (request,) = server.requests
        assert request.head.startswith(f"POST {V1}{node} HTTP/1.1\r\n".encode())
        assert request.body == body
        assert request.headers == {
            "host": f"127.0.0.1:{server.port}",
            "connection": "close",
            "content-type": "application/json",
            "content-length": str(len(body)),
        }


@pytest.mark.parametrize("content_type", ["text/html; charset=latin-1", "?", ""])
@virtual
async def test_a_live_value_of_any_content_type(content_type: str) -> None:
    async with connected(answer(VALUE, content_type=content_type)) as (client, server):
        value = await client.metervalue()
        assert (value.MS, str(value.import_wh), value.TM) == ("1TST0000000001", "446540.000", TIME)
        assert server.lines() == [(0, f"GET {V1}/metervalue")]


# --- receipts ---


WRAPPED = [
    TUPLE, f"\ufeff \r\n{TUPLE}\r\n\0", json.dumps(TUPLE), json.dumps({"OCMF": TUPLE}, ensure_ascii=False),
    f'"{TUPLE}"', f"{{{TUPLE}}}",
]  # fmt: skip
DAMAGED = [b"OCMF|{}|{}\xff", b'OCMF|{"FV":"1.0"}', b"OCMF|{}|{", b"\xff\xfe"]


@pytest.mark.parametrize("node", ["receipt", "transaction"])
@virtual
async def test_a_receipt_is_read_raw_or_wrapped_and_a_damaged_one_is_not_understood(node: str) -> None:
    script = [answer(body.encode()) for body in WRAPPED] + [answer(body) for body in DAMAGED]
    async with connected(*script) as (client, _):
        for _ in WRAPPED:
            assert (await getattr(client, node)()).text == TUPLE
        for _ in DAMAGED:
            error = await failure(getattr(client, node)())
            assert isinstance(error, NotUnderstoodError)
            assert "no OCMF tuple" in str(error)


@pytest.mark.parametrize("said", [b"", b"{}", b'""', b"null", b"not yet", b"404 No", b"428 No", b"400 x", b"499 x"])
@virtual
async def test_there_is_no_receipt(said: bytes) -> None:
    none = answer(TUPLE.encode(), said.decode()) if said[:1] == b"4" else answer(said)
    async with connected(none, none, none) as (client, server):
        assert await client.receipt() is None
        assert await client.transaction() is None
        assert [line for _, line in server.lines()][1:] == [f"GET {base}/transaction" for base in (V1, V2)]


@virtual
async def test_transaction_is_asked_under_v1_then_v2_and_remembered() -> None:
    missing = answer(b"", "404 Not Found")
    async with connected(missing, RECEIPT, RECEIPT, missing, RECEIPT, RECEIPT) as (client, server):
        for _ in range(4):
            assert await client.transaction() is not None
        assert [line for _, line in server.lines()] == [f"GET {base}/transaction" for base in (V1, V2, V2, V2, V1, V1)]


@pytest.mark.parametrize("status", ["500 Error", "501 Not Implemented"])
@virtual
async def test_server_error_under_one_path_hides_no_receipt_under_the_other(status: str) -> None:
    error, missing = answer(b"", status), answer(b"", "404 Not Found")
    async with connected(error, RECEIPT, error, missing, missing, error) as (client, _):
        assert await client.transaction() is not None
        for _ in range(2):
            failed = await failure(client.transaction())
            assert isinstance(failed, RefusedError)
            assert failed.status == int(status[:3])


@virtual
async def test_both_places_of_transaction_share_one_time() -> None:
    slow = answer(b"", "404 Not Found", drip_s=0.02)
    async with connected(slow, Do(then=Then.STALL)) as (client, server):
        assert isinstance(await failure(client.transaction(timeout_s=3.0)), MeterTimeoutError)
        assert now_s() == pytest.approx(3.0, abs=0.01)
        assert len(server.requests) == 2


# --- what a status means ---


@pytest.mark.parametrize("body", [b"", b"\xff<ok>"])
@virtual
async def test_any_2xx_to_a_post_is_success_whatever_it_says(body: bytes) -> None:
    statuses = "200 OK", "201 Created", "202 Accepted", "204 No Content", "299 ?"
    async with connected(*[answer(body, status, content_type="text/html") for status in statuses]) as (client, server):
        for _ in statuses:
            await client.begin()
        assert len(server.requests) == len(statuses)


@virtual
async def test_a_4xx_was_not_acted_on() -> None:
    statuses = 400, 401, 404, 408, 428, 499
    script = [answer(b"  no\x1b[2J \xff" + b"x" * 500, f"{status} No") for status in statuses]
    async with connected(*script) as (client, server):
        for status in statuses:
            error = await failure(client.begin())
            assert isinstance(error, RefusedError)
            assert (error.status, error.node, error.meter) == (status, "POST /receipt", f"127.0.0.1:{server.port}")
            assert f"refused with status {status}: no" in str(error)
            assert not error.may_have_acted


@pytest.mark.parametrize("call", [MeterClient.gw, MeterClient.begin])
@virtual
async def test_after_any_other_status_the_meter_may_have_acted(call: Any) -> None:
    statuses = 301, 304, 307, 500, 503, 600
    headers = "Location: /counter/v2/ocmf/gw\r\n"
    async with connected(*[answer(b"", f"{status} ?", headers=headers) for status in statuses]) as (client, server):
        for status in statuses:
            error = await failure(call(client))
            assert error.may_have_acted
            assert type(error) is (NotUnderstoodError if status < 400 else RefusedError)
            said = f"a redirect ({status}) to /counter/v2/ocmf/gw" if status < 400 else f"status {status}"
            assert said in str(error)
        assert len(server.requests) == len(statuses)


@pytest.mark.parametrize(
    ("said", "path", "what"),
    [
        (b"<html>Router</html>", "", "not JSON"),
        (VALUE | {"RD": [{"RI": "1-b:1.8.e", "RU": "kWh", "RV": "?"}]}, "RD[1-b:1.8.e].RV", "expected digits"),
    ],
)
@virtual
async def test_unreadable_answer_is_named_with_its_path(said: object, path: str, what: str) -> None:
    async with connected(answer(said)) as (client, _):
        error = await failure(client.metervalue())
        assert isinstance(error, NotUnderstoodError)
        assert (error.node, error.path) == ("GET /metervalue", path)
        assert what in str(error)
        assert "Is there an IEM-DCR at this address?" in str(error)


@virtual
async def test_raw_answer_of_any_status() -> None:
    statuses = 200, 204, 302, 404, 503
    script = [answer(b"", f"{status} ?", headers="X-Vendor: a\r\n") for status in statuses]
    async with connected(*script, answer(b"{}")) as (client, server):
        for status in statuses:
            said = await client.answer("/transaction", base=V2)
            assert (said.status, said.body) == (status, b"")
            assert (said.header("x-vendor"), said.header("none")) == ("a", "")
        assert (await client.answer("/gw")).body == b"{}"
        assert [line for _, line in server.lines()][-2:] == [f"GET {V2}/transaction", f"GET {V1}/gw"]


# --- whoever looks on ---


@virtual
async def test_observer_hears_of_each_request_once() -> None:
    told: list[tuple[str, str, float, type[MeterError] | None]] = []

    def hear(method: str, node: str, took_s: float, error: MeterError | None) -> None:
        told.append((method, node, round(took_s, 1), None if error is None else type(error)))

    missing, stall = answer(b"", "404 Not Found"), Do(then=Then.STALL)
    async with connected(answer(CLOCK), missing, missing, answer(b"[]"), stall, stall, timeout_s=2.0) as (client, _):
        client.on_request = hear
        await client.datetime()
        assert await client.transaction() is None
        await failure(client.gw())
        await failure(client.begin())
        given_up = asyncio.create_task(client.end())
        await asyncio.sleep(1)
        given_up.cancel()
        await asyncio.wait({given_up})
    assert told == [
        ("GET", "/datetime", 0.0, None),
        ("GET", "/transaction", 0.0, None),
        ("GET", "/transaction", 0.0, None),
        ("GET", "/gw", 0.0, NotUnderstoodError),
        ("POST", "/receipt", 2.0, MeterTimeoutError),
    ]


@virtual
async def test_requests_are_a_pause_apart() -> None:
    async with connected(*[answer(CLOCK)] * 4, answer(b"", "404 No"), RECEIPT, pause_s=2.0) as (client, _):
        ends_s = []
        for wait_s in (0, 0, 0, 5):
            await asyncio.sleep(wait_s)
            await client.datetime()
            ends_s.append(round(now_s(), 1))
        assert ends_s == [0, 2, 4, 9]
        assert await client.transaction(timeout_s=5.0) is not None
        assert now_s() == pytest.approx(13, abs=0.1)


@virtual
async def test_time_of_the_last_response() -> None:
    """A refusal is an answer, and so is what is not understood; silence and what is no HTTP are none."""
    script = answer(CLOCK), answer(b"", "503 Busy"), answer(b"?"), Do(then=Then.STALL), Do(b"SSH-2.0-x\r\n", Then.CLOSE)
    async with connected(*script, timeout_s=1.0) as (client, _):
        came_s = [client.last_response_s]
        await client.datetime()
        for _ in range(4):
            came_s.append(client.last_response_s)
            await asyncio.sleep(1)
            await failure(client.datetime())
        assert came_s == [None, *[pytest.approx(at_s, abs=0.1) for at_s in (0, 1, 2, 2)]]
        assert client.last_response_s == came_s[-1]
