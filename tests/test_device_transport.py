"""HTTP to the meter: connections, time, and the odd answers of embedded servers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.device.client import MeterClient
from iem_dcr.device.transport import MAX_ANSWER_BYTES
from iem_dcr.errors import (
    AnswerLostError,
    MeterError,
    MeterTimeoutError,
    MeterUnreachableError,
    NotUnderstoodError,
    RefusedError,
)
from tests.support.meter_client import CLOCK, CLOCK_BODY, TIME, connected, failure, now_s
from tests.support.odd_answers import DONE_FOR_A_POST, READ, REFUSED
from tests.support.raw_server import Do, Then, answer
from tests.support.virtual_time import run_virtual, virtual

LIMIT_S = 2.0
NEXT = answer({"TM": "2026-05-05T05:05:05,000+0000"})
SILENT = Do(then=Then.STALL)


# --- odd answers ---


async def next_is_its_own(client: MeterClient) -> None:
    clock = await client.datetime()
    assert clock is not None
    assert (clock.instant.day, clock.instant.month) == (5, 5)


@pytest.mark.parametrize("name", READ)
@virtual
async def test_an_odd_answer_is_read(name: str) -> None:
    said = READ[name]
    refusing = Do(said.send.replace(b" 200", b" 428"), said.then)
    async with connected(said, said, refusing, NEXT, timeout_s=LIMIT_S) as (client, _):
        assert await client.datetime() == TIME
        await client.begin()
        refusal = await failure(client.begin())
        assert isinstance(refusal, RefusedError)
        assert (refusal.status, refusal.may_have_acted) == (428, False)
        assert now_s() <= 3 * LIMIT_S + 0.1
        await next_is_its_own(client)


@pytest.mark.parametrize("name", REFUSED)
@virtual
async def test_an_odd_answer_is_refused(name: str) -> None:
    kind, said = REFUSED[name]
    async with connected(said, said, NEXT, timeout_s=LIMIT_S) as (client, _):
        error = await failure(client.datetime())
        assert type(error) is kind
        if name in DONE_FOR_A_POST:
            await client.begin()
        else:
            error = await failure(client.begin())
            assert type(error) is kind
            assert error.may_have_acted
        assert now_s() <= 2 * LIMIT_S + 0.1
        await next_is_its_own(client)


SMALL: dict[str, tuple[type[MeterError] | None, Do]] = {
    **{name: (None, said) for name, said in READ.items()},
    **{name: one for name, one in REFUSED.items() if "without end" not in name and "256" not in name},
}


def segments(data: bytes, cuts: set[int]) -> tuple[bytes, ...]:
    ends = [*sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return tuple(data[begin:end] for begin, end in zip([0, *ends], ends, strict=False))


@given(
    st.sampled_from(sorted(SMALL)),
    st.sets(st.integers(1, 150), max_size=4) | st.just(set(range(1, 4000))),
    st.sampled_from([0.0001, 0.1]),
)
def test_segments_do_not_matter(name: str, cuts: set[int], apart_s: float) -> None:
    """Head and body may come in two segments, and all of it byte by byte."""
    kind, said = SMALL[name]
    parts = segments(said.send, cuts)
    whole = Do(said.send, said.then, apart_s if len(parts) < 9 else 0.0001, parts=parts)

    async def ask() -> None:
        async with connected(whole, NEXT, timeout_s=LIMIT_S) as (client, _):
            if kind is None:
                assert await client.datetime() == TIME
            else:
                assert type(await failure(client.datetime())) is kind
            await next_is_its_own(client)

    run_virtual(ask())


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda more: b"HTTP/1.1 200 OK\r\n" + more))
def test_any_bytes_are_an_answer_or_an_error(data: bytes) -> None:
    async def ask() -> None:
        async with connected(Do(data, Then.CLOSE), NEXT, timeout_s=LIMIT_S) as (client, _):
            error = await failure(client.datetime())
            assert isinstance(error, AnswerLostError | NotUnderstoodError | RefusedError)
            await next_is_its_own(client)

    run_virtual(ask())


@virtual
async def test_a_tuple_without_a_length() -> None:
    said = Do(b'HTTP/1.1 200 OK\r\n\r\nOCMF|{"FV":"1.0"}|{"SD":"00"}\r\n', Then.STALL)
    async with connected(said, timeout_s=LIMIT_S) as (client, _):
        receipt = await client.receipt()
        assert receipt is not None
        assert receipt.text == 'OCMF|{"FV":"1.0"}|{"SD":"00"}'


@virtual
async def test_answer_is_limited_to_256_kib() -> None:
    head = len(answer(b" " * 200_000).send) - 200_000
    whole, more = (answer(CLOCK_BODY.ljust(MAX_ANSWER_BYTES - head + n)) for n in (0, 1))
    assert len(whole.send) == MAX_ANSWER_BYTES
    async with connected(whole, whole, more) as (client, _):
        assert [await client.datetime() for _ in range(2)] == [TIME] * 2
        error = await failure(client.datetime())
        assert f"more than {MAX_ANSWER_BYTES} bytes" in str(error)


# --- connections ---


@virtual
async def test_each_request_has_a_connection_that_is_closed_in_good_order() -> None:
    """`connected` holds every test to the number; here is how they end, refused or not."""
    polite = answer(CLOCK, headers="Connection: close\r\n", then=Then.CLOSE)
    kept = answer(CLOCK, headers="Connection: keep-alive\r\nKeep-Alive: timeout=9999\r\n")
    async with connected(answer(), polite, kept, answer(b"{}", "428 No"), answer()) as (client, server):
        await client.begin()
        await asyncio.sleep(0.01)
        assert server.open == 0
        await client.datetime()
        await client.datetime()
        await failure(client.begin())
        await client.end()
        await asyncio.sleep(0.01)
        assert [connection.was_reset for connection in server.connections] == [False] * 5
        assert server.open == 0


@pytest.mark.parametrize("call", [MeterClient.datetime, MeterClient.begin])
@pytest.mark.parametrize("how", [SILENT, answer(CLOCK, length=500), Do(b"HTTP/1.1 200 OK\r\n")])
@pytest.mark.parametrize("is_cancelled", [False, True])
@virtual
async def test_a_connection_without_its_answer_is_reset(how: Do, call: Any, *, is_cancelled: bool) -> None:
    async with connected(how, NEXT, timeout_s=LIMIT_S) as (client, server):
        request = asyncio.create_task(call(client))
        await asyncio.sleep(0.5)
        assert server.open == 1
        if is_cancelled:
            request.cancel()
            await asyncio.wait({request})
            assert request.cancelled()
        else:
            assert isinstance(await failure(request), MeterTimeoutError)
        await asyncio.sleep(0.1)
        assert [connection.was_reset for connection in server.connections] == [True]
        await next_is_its_own(client)


def receive_all(connection: socket.socket, into: bytearray) -> None:
    while data := connection.recv(65_536):
        into += data


@virtual
async def test_undelivered_request_never_arrives_later() -> None:
    """The host would go on sending it, to a meter that comes back minutes later."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        text = "x" * 8_000_000
        error = await failure(MeterClient(*listener.getsockname(), timeout_s=1.0).set_tariff(text))
        assert isinstance(error, MeterTimeoutError)
        await asyncio.sleep(0.1)
        connection, _ = listener.accept()
        connection.settimeout(5)
        came = bytearray()
        with connection, pytest.raises(ConnectionResetError):
            receive_all(connection, came)
        assert 0 < len(came) < len(text)


BROKEN = {
    "closed before the answer": Do(then=Then.CLOSE),
    "reset before the answer": Do(then=Then.RESET),
    "closed within the head": Do(b"HTTP/1.1 200 OK\r\nContent-Le", Then.CLOSE),
    "closed within the body": answer(b'{"TM":', length=50, then=Then.CLOSE),
    "closed within a chunk": Do(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"TM"', Then.CLOSE),
    "closed within the size of a chunk": Do(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2", Then.CLOSE),
    "closed after an interim answer": Do(b"HTTP/1.1 100 Continue\r\n\r\n", Then.CLOSE),
    "reset within the body": answer(b'{"TM":', length=50, then=Then.RESET, drip_s=0.001),
}


@pytest.mark.parametrize("call", [MeterClient.datetime, MeterClient.begin])
@pytest.mark.parametrize("how", BROKEN)
@virtual
async def test_an_answer_that_is_lost_is_not_asked_for_again(how: str, call: Any) -> None:
    async with connected(BROKEN[how]) as (client, server):
        error = await failure(call(client))
        assert isinstance(error, AnswerLostError)
        assert error.may_have_acted
        assert len(server.requests) == 1


# --- time ---


@pytest.mark.parametrize(("asked_s", "limit_s"), [(None, 5.0), (1.25, 1.25), (60.0, 5.0), (0.0, 0.0), (-1.0, 0.0)])
@pytest.mark.parametrize("said", [SILENT, answer(b" " * 400, drip_s=0.1)])
@virtual
async def test_timeout_covers_the_whole_answer(asked_s: float | None, limit_s: float, said: Do) -> None:
    """Time covers the body: each byte may come well in time, and all of them do not."""
    async with connected(said, said) as (client, _):
        for call in (client.datetime, client.begin):
            began_s = now_s()
            error = await failure(call(timeout_s=asked_s))
            assert now_s() - began_s == pytest.approx(limit_s, abs=0.01)
            assert isinstance(error, MeterTimeoutError if limit_s else MeterTimeoutError | MeterUnreachableError)
            assert error.may_have_acted or not limit_s
            assert not limit_s or f"no answer within {limit_s:.1f} s" in str(error)


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
        error = await failure(MeterClient(*listener.getsockname()).begin(timeout_s=1.5))
        assert isinstance(error, MeterUnreachableError)
        assert not error.may_have_acted
        assert "no connection within 1.5 s" in str(error)
        assert now_s() == pytest.approx(1.5, abs=0.01)
