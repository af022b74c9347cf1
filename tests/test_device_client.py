"""The meter's client, byte for byte: what it sends for every node, and what it makes of every answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr.device.client import MeterClient
from iem_dcr.device.connections import MAX_ANSWER_BYTES, MAX_WIRE_BYTES
from iem_dcr.device.messages import Gateway, PublicKey, User
from iem_dcr.errors import (
    MeterError,
    MeterTimeoutError,
    MeterUnreachableError,
    NotUnderstoodError,
    RefusedError,
)
from iem_dcr.meter_time import MeterTime
from tests.support.raw_server import Do, RawServer, Then, answer
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

TM = "2026-03-01T13:00:00,000+0100"
CLOCK = {"TM": f"{TM} S"}
TIME = MeterTime(datetime(2026, 3, 1, 12, tzinfo=UTC), "S")
TUPLE = 'OCMF|{"FV":"1.0","TT":"a\\u00e4 é |"}|{"SD":"00"}'
VALUE = {
    "MS": "1TST0000000001", "TM": f"{TM} S", "XT": False, "U2": 400, "I": 0, "P": 0, "XC": "0x0000",
    "RD": [{"RV": "00000446.540", "RI": "1-b:1.8.e", "RU": "kWh", "RT": "DC"}],
}  # fmt: skip
USER = User(IS=True, IL="NONE", IF=("RFID_PLAIN",), IT="ISO14443", ID="04AABB", US=False, TT="0,42 EUR/kWh")
V1, V2 = "/counter/v1/ocmf", "/counter/v2/ocmf"


@contextlib.asynccontextmanager
async def met(*script: Do, timeout_s: float = 5.0) -> AsyncIterator[tuple[MeterClient, RawServer]]:
    """A client and the server it speaks with. After the client is closed, no connection may be left."""
    async with RawServer(list(script)) as server:
        async with MeterClient("127.0.0.1", server.port, timeout_s=timeout_s) as client:
            yield client, server
        gc.collect()
        await asyncio.sleep(1)
        assert server.open == 0


async def failure(request: Awaitable[object]) -> MeterError:
    with pytest.raises(MeterError) as failed:
        await request
    error = failed.value
    assert str(error).startswith(f"meter {error.meter}, {error.node}: ")
    assert str(error).isprintable()
    assert len(str(error)) < 400
    return error


GETS: list[tuple[str, Any, Any, Any]] = [
    ("/gw", lambda c: c.gw(), {"CT": "", "CI": "", "TM": TM}, Gateway("", "", MeterTime(TIME.instant))),
    ("/datetime", lambda c: c.datetime(), CLOCK, TIME),
    ("/publickey", lambda c: c.publickey(), {"SA": "ECDSA", "PK": "00FF"}, PublicKey("ECDSA", "00FF")),
    ("/receipt", lambda c: c.receipt(), TUPLE.encode(), TUPLE),
    ("/transaction", lambda c: c.transaction(), TUPLE.encode(), TUPLE),
]
POSTS: list[tuple[str, Any, bytes]] = [
    ("/gw", lambda c: c.set_gw("EVSEID", "DE*1", TM), b'{"CT":"EVSEID","CI":"DE*1","TM":"' + TM.encode() + b'"}'),
    ("/tariff", lambda c: c.set_tariff("0,42 EUR"), b'{"TT":"0,42 EUR"}'),
    ("/datetime", lambda c: c.set_datetime(TM), b'{"TM":"' + TM.encode() + b'"}'),
    (
        "/user",
        lambda c: c.set_user(USER),
        b'{"IS":true,"IL":"NONE","IF":["RFID_PLAIN"],"IT":"ISO14443","ID":"04AABB","US":false,"TT":"0,42 EUR/kWh"}',
    ),
    ("/receipt", lambda c: c.begin(), b'{"TX":"B"}'),
    ("/receipt", lambda c: c.end(), b'{"TX":"E"}'),
]


@pytest.mark.parametrize(("node", "call", "said", "read"), GETS)
@virtual
async def test_a_get(node: str, call: Any, said: object, read: object) -> None:
    async with met(answer(said)) as (client, server):
        assert await call(client) == read
        (request,) = server.requests
        head = request.head.decode().split("\r\n")
        assert head[0] == f"GET {V1}{node} HTTP/1.1"
        assert request.headers["host"] == f"127.0.0.1:{server.port}"
        assert set(request.headers) == {"host", "user-agent"}
        assert request.body == b""


@virtual
async def test_a_live_value() -> None:
    async with met(answer(VALUE)) as (client, server):
        value = await client.metervalue()
        assert (value.MS, str(value.import_wh), value.TM) == ("1TST0000000001", "446540.000", TIME)
        assert server.lines() == [(0, f"GET {V1}/metervalue")]


@pytest.mark.parametrize(("node", "call", "body"), POSTS)
@virtual
async def test_a_post(node: str, call: Any, body: bytes) -> None:
    async with met(answer()) as (client, server):
        assert await call(client) is None
        (request,) = server.requests
        assert request.head.startswith(f"POST {V1}{node} HTTP/1.1\r\n".encode())
        assert request.body == body
        assert request.headers["content-length"] == str(len(body))
        assert request.headers["content-type"] == "application/json"
        assert set(request.headers) == {"host", "user-agent", "content-length", "content-type"}


@virtual
async def test_a_body_is_ascii_whatever_is_in_it() -> None:
    async with met(answer()) as (client, server):
        await client.set_tariff('0,42 €"\n')
        assert server.requests[0].body == b'{"TT":"0,42 \\u20ac\\"\\n"}'


@virtual
async def test_what_a_meter_says_upon_a_post_is_not_looked_at() -> None:
    async with met(answer(b"\xff<ok>", content_type="text/html"), answer(b"")) as (client, server):
        await client.begin()
        await client.end()
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "content_type", ["text/plain", "text/html; charset=latin-1", "application/octet-stream", "?", ""]
)
@virtual
async def test_any_content_type_will_do(content_type: str) -> None:
    async with met(*[answer(said, content_type=content_type) for said in (CLOCK, TUPLE.encode())]) as (client, _):
        assert await client.datetime() == TIME
        assert await client.receipt() == TUPLE


@virtual
async def test_an_answer_may_come_in_chunks_or_end_with_the_connection() -> None:
    body = json.dumps(CLOCK).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    chunked = Do(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    closed = Do(b"HTTP/1.0 200 OK\r\n\r\n" + body, Then.CLOSE)
    async with met(chunked, closed, closed) as (client, _):
        assert [await client.datetime() for _ in range(3)] == [TIME] * 3


RECEIPTS: list[tuple[bytes, str | None]] = [
    (TUPLE.encode(), TUPLE),
    (b"\xef\xbb\xbf \r\n" + TUPLE.encode() + b"\r\n\0", TUPLE),
    (json.dumps(TUPLE).encode(), TUPLE),
    (json.dumps(TUPLE, ensure_ascii=False).encode(), TUPLE),
    (json.dumps({"OCMF": TUPLE}).encode(), TUPLE),
    (b'"' + TUPLE.encode() + b'"', TUPLE),
    (b"{" + TUPLE.encode() + b"}", TUPLE),
    (b"", None),
    (b"{}", None),
    (b'""', None),
    (b"not yet", None),
]


@pytest.mark.parametrize(("body", "found"), RECEIPTS)
@virtual
async def test_a_receipt_raw_or_wrapped(body: bytes, found: str | None) -> None:
    async with met(answer(body)) as (client, _):
        assert await client.receipt() == found


@pytest.mark.parametrize("node", ["receipt", "transaction"])
@virtual
async def test_a_receipt_that_is_no_text(node: str) -> None:
    async with met(answer(b"OCMF|{}|{}\xff")) as (client, _):
        error = await failure(getattr(client, node)())
        assert isinstance(error, NotUnderstoodError)
        assert "not a text in UTF-8" in str(error)


@virtual
async def test_transaction_is_asked_under_v1_then_v2_and_remembered() -> None:
    ok, missing = answer(TUPLE.encode()), answer(b"", "404 Not Found")
    async with met(missing, ok, ok, missing, ok, ok) as (client, server):
        assert [await client.transaction() for _ in range(4)] == [TUPLE] * 4
        assert [line for _, line in server.lines()] == [f"GET {base}/transaction" for base in (V1, V2, V2, V2, V1, V1)]


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ([404, 404], None),
        ([404, b""], None),
        ([b"{}", 404], None),
        ([b"", b""], None),
        ([428, 404], 428),
        ([404, 428], 428),
        ([500, b""], 500),
        ([404, 401], 401),
    ],
)
@virtual
async def test_a_meter_that_has_signed_nothing(script: list[int | bytes], status: int | None) -> None:
    steps = [answer(b"", f"{step} No") if isinstance(step, int) else answer(step) for step in script]
    async with met(*steps) as (client, server):
        if status is None:
            assert await client.transaction() is None
        else:
            error = await failure(client.transaction())
            assert isinstance(error, RefusedError)
            assert error.status == status
        assert [line for _, line in server.lines()] == [f"GET {V1}/transaction", f"GET {V2}/transaction"]


@virtual
async def test_both_places_of_transaction_share_one_time() -> None:
    slow = answer(b"", "404 Not Found", drip_s=0.02)
    async with met(slow, Do(then=Then.STALL)) as (client, server):
        began_s = asyncio.get_running_loop().time()
        error = await failure(client.transaction(timeout_s=3.0))
        assert isinstance(error, MeterTimeoutError)
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(3.0, abs=0.01)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "status", ["400 Bad", "401 No", "404 Not Found", "408 Late", "428 Precondition Required", "499 x"]
)
@virtual
async def test_a_refusal(status: str) -> None:
    async with met(answer(b"  no\x1b[2J \xff" + b"x" * 500, status)) as (client, server):
        error = await failure(client.begin())
        assert isinstance(error, RefusedError)
        assert (error.status, error.node, error.meter) == (int(status[:3]), "POST /receipt", f"127.0.0.1:{server.port}")
        assert f"refused with status {error.status}: no" in str(error)
        assert not error.may_have_acted


@pytest.mark.parametrize("status", ["500 Error", "503 Busy", "204 No Content", "202 Accepted", "600 ?"])
@virtual
async def test_a_status_that_leaves_it_open_what_was_done(status: str) -> None:
    async with met(answer(b"", status)) as (client, _):
        error = await failure(client.begin())
        assert isinstance(error, RefusedError)
        assert error.status == int(status[:3])
        assert error.may_have_acted


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
@virtual
async def test_a_redirect_is_not_followed(status: str) -> None:
    async with met(*[answer(b"", status, headers="Location: /counter/v2/ocmf/gw\r\n")] * 2) as (client, server):
        for request in (client.gw(), client.end()):
            error = await failure(request)
            assert isinstance(error, NotUnderstoodError)
            assert f"a redirect ({status[:3]}) to /counter/v2/ocmf/gw" in str(error)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("said", "path", "what"),
    [
        (b"<html>Router</html>", "", "not JSON"),
        (b"", "", "not JSON"),
        (b"[]", "", "expected an object"),
        (VALUE | {"XT": 1}, "XT", "expected true or false"),
        (VALUE | {"RD": []}, "RD", "no row with RI 1-b:1.8.e"),
        (VALUE | {"RD": [{"RI": "1-b:1.8.e", "RU": "kWh", "RV": "?"}]}, "RD[1-b:1.8.e].RV", "expected digits"),
        (VALUE | {"TM": "now"}, "TM", "not a time"),
    ],
)
@virtual
async def test_what_is_not_understood_is_named_with_its_place(said: object, path: str, what: str) -> None:
    async with met(answer(said)) as (client, _):
        error = await failure(client.metervalue())
        assert isinstance(error, NotUnderstoodError)
        assert (error.node, error.path) == ("GET /metervalue", path)
        assert what in str(error)
        assert "Is there an IEM-DCR at this address?" in str(error)


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\0" * 100, b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nA" + b"a" * 99999]
)
@virtual
async def test_what_is_not_http_is_not_understood(said: bytes) -> None:
    async with met(Do(said, Then.CLOSE)) as (client, server):
        error = await failure(client.datetime())
        assert isinstance(error, NotUnderstoodError)
        assert "not HTTP" in str(error)
        assert len(server.requests) == 1


@virtual
async def test_an_answer_may_have_so_many_bytes_and_no_more() -> None:
    padded = json.dumps(CLOCK).encode().ljust(MAX_ANSWER_BYTES)
    async with met(answer(padded), answer(padded + b" ")) as (client, server):
        assert await client.datetime() == TIME
        error = await failure(client.datetime())
        assert isinstance(error, NotUnderstoodError)
        assert f"more than {MAX_ANSWER_BYTES} bytes" in str(error)
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", ["200 OK", "302 Found", "500 Error"])
@virtual
async def test_what_is_longer_is_not_read_on(status: str) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {2**40}\r\n\r\n".encode()
    async with met(Do(head, flood=True)) as (client, server):
        error = await failure(client.datetime())
        assert isinstance(error, NotUnderstoodError)
        await asyncio.sleep(0.01)
        assert server.open == 0
        assert server.connections[0].sent < 128 * MAX_ANSWER_BYTES


@pytest.mark.parametrize("part", [b"X: y\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
@virtual
async def test_what_is_longer_before_its_body_is_not_read_on(part: bytes) -> None:
    async with met(Do(b"HTTP/1.1 200 OK\r\n" * (b"X" in part) + part * (4 * MAX_WIRE_BYTES // len(part)))) as (
        client,
        server,
    ):
        assert isinstance(await failure(client.datetime()), NotUnderstoodError)
        await asyncio.sleep(0.01)
        assert server.open == 0


@virtual
async def test_what_comes_on_one_connection_is_counted_for_each_answer() -> None:
    half = answer(json.dumps(CLOCK).encode().ljust(MAX_ANSWER_BYTES))
    async with met(*[half] * 5) as (client, server):
        for _ in range(5):
            assert await client.datetime() == TIME
        assert len(server.connections) == 1


@virtual
async def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with MeterClient("127.0.0.1", bound.getsockname()[1]) as client:
            for request in (client.gw(), client.begin()):
                error = await failure(request)
                assert isinstance(error, MeterUnreachableError)
                assert not error.may_have_acted
                assert "Is the meter powered, and ip_address its address?" in str(error)


@pytest.mark.parametrize("host", ["m" * 64, "a..b"])
@virtual
async def test_an_impossible_name(host: str) -> None:
    async with MeterClient(host, 80) as client:
        assert isinstance(await failure(client.gw()), MeterUnreachableError)


@virtual
async def test_no_connection_in_time() -> None:
    """A listener whose queue is full takes no connection and refuses none."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)  # noqa: FBT003  the signature is socket's
            waiting.connect_ex(listener.getsockname())
        async with MeterClient("127.0.0.1", listener.getsockname()[1], timeout_s=4.0) as client:
            began_s = asyncio.get_running_loop().time()
            error = await failure(client.begin(timeout_s=1.5))
            assert isinstance(error, MeterUnreachableError)
            assert not error.may_have_acted
            assert "no connection within 1.5 s" in str(error)
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(("asked_s", "limit_s"), [(None, 5.0), (1.25, 1.25), (60.0, 5.0), (0.0, 0.0), (-1.0, 0.0)])
@virtual
async def test_time_runs_out_while_the_meter_is_silent(asked_s: float | None, limit_s: float) -> None:
    async with met(Do(then=Then.STALL), Do(then=Then.STALL)) as (client, _):
        for call in (client.datetime, client.begin):
            began_s = asyncio.get_running_loop().time()
            error = await failure(call(timeout_s=asked_s))
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(limit_s, abs=0.01)
            assert isinstance(error, MeterTimeoutError if limit_s else MeterTimeoutError | MeterUnreachableError)
            assert error.may_have_acted or not limit_s


@pytest.mark.parametrize("size", [40, 400])
@virtual
async def test_time_covers_the_body(size: int) -> None:
    """Each byte comes well in time; all of them do not."""
    async with met(*[answer(b" " * size, drip_s=0.1)] * 2) as (client, server):
        for call in (client.datetime, client.end):
            began_s = asyncio.get_running_loop().time()
            error = await failure(call(timeout_s=2.0))
            assert isinstance(error, MeterTimeoutError)
            assert error.may_have_acted
            assert "no answer within 2.0 s" in str(error)
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(2.0, abs=0.01)
        assert len(server.requests) == 2


@virtual
async def test_nothing_of_the_environment_gets_between() -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.setitem(os.environ, name, "http://127.0.0.1:9")
        async with met(answer(CLOCK)) as (client, server):
            assert await client.datetime() == TIME
            assert server.requests[0].line == f"GET {V1}/datetime"


def test_the_address_of_a_meter() -> None:
    assert MeterClient("192.168.60.12").address == "192.168.60.12:80"
    assert MeterClient("meter", 8080).address == "meter:8080"
    assert MeterClient("fe80::1%eth0", 80).address == "[fe80::1%eth0]:80"


@virtual
async def test_a_name_that_nobody_knows() -> None:
    async with MeterClient("meter.invalid") as client:
        error = await failure(client.metervalue())
    assert isinstance(error, MeterUnreachableError)
    assert "this host does not know that name (" in error.brief
    assert "ssl" not in error.brief
