"""Which request goes out on which connection, when a connection is given up, and that hardly anything is sent twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr.device.client import MeterClient
from iem_dcr.device.connections import IDLE_CLOSED_AFTER_S
from iem_dcr.errors import AnswerLostError, MeterUnreachableError, NotUnderstoodError, RefusedError
from tests.support.raw_server import Do, Then, answer
from tests.support.virtual_time import virtual
from tests.test_device_client import CLOCK, TIME, failure, met

if TYPE_CHECKING:
    from iem_dcr.meter_time import MeterTime
    from tests.support.raw_server import RawServer

CLOCK_SAID = answer(CLOCK)
DONE = answer()
DROPPED = Do(then=Then.CLOSE)
RESET = Do(then=Then.RESET)


def wires(server: RawServer) -> list[str]:
    """Connection and method of every request: ``0 GET``."""
    return [f"{connection} {line.split(' ')[0]}" for connection, line in server.lines()]


def test_the_time() -> None:
    assert IDLE_CLOSED_AFTER_S == 2.0


@virtual
async def test_gets_share_a_connection() -> None:
    async with met(*[CLOCK_SAID] * 5) as (client, server):
        for _ in range(5):
            assert await client.datetime() == TIME
            await asyncio.sleep(1.9)
        assert wires(server) == ["0 GET"] * 5


@virtual
async def test_a_server_that_closes_each_connection() -> None:
    polite = answer(CLOCK, headers="Connection: close\r\n", then=Then.CLOSE)
    rude = answer(CLOCK, then=Then.CLOSE)
    async with met(polite, polite, rude, rude, CLOCK_SAID) as (client, server):
        for _ in range(5):
            assert await client.datetime() == TIME
            await asyncio.sleep(0.1)
        assert wires(server) == [f"{i} GET" for i in range(5)]


@pytest.mark.parametrize("last", ["datetime", "begin"])
@virtual
async def test_an_idle_connection_is_closed_after_two_seconds(last: str) -> None:
    async with met(CLOCK_SAID, CLOCK_SAID, CLOCK_SAID if last == "datetime" else DONE, CLOCK_SAID) as (client, server):
        await client.datetime()
        await asyncio.sleep(1.5)
        await client.datetime()
        await asyncio.sleep(0.9)
        await getattr(client, last)()
        used_s = asyncio.get_running_loop().time()
        await asyncio.sleep(1.9)
        assert server.open == 1
        await asyncio.sleep(3)
        assert server.open == 0
        assert server.connections[-1].closed_s == pytest.approx(used_s + 2.0, abs=0.01)
        await client.datetime()
        assert wires(server)[-1] == f"{len(server.connections) - 1} GET"


@pytest.mark.parametrize("which", [Do(then=Then.STALL), answer(CLOCK, length=500), Do(send=b"HTTP/1.1 200 OK\r\n")])
@pytest.mark.parametrize("method", ["begin", "datetime"])
@virtual
async def test_a_connection_without_a_whole_answer_is_reset(method: str, which: Do) -> None:
    """Otherwise the host goes on sending what the meter has not acknowledged."""
    async with met(which, timeout_s=1.0) as (client, server):
        assert (await failure(getattr(client, method)())).may_have_acted
        await asyncio.sleep(0.1)
        assert [connection.was_reset for connection in server.connections] == [True]


@virtual
async def test_so_is_one_whose_request_is_not_waited_for_any_more() -> None:
    async with met(Do(then=Then.STALL)) as (client, server):
        begin = asyncio.create_task(client.begin())
        while not server.requests:
            await asyncio.sleep(0.01)
        begin.cancel()
        await asyncio.wait({begin})
        await asyncio.sleep(0.1)
        assert [connection.was_reset for connection in server.connections] == [True]


@virtual
async def test_a_connection_with_an_answer_is_closed_in_good_order() -> None:
    async with met(DONE, CLOCK_SAID, DONE, CLOCK_SAID, answer(b"{}", "428 Precondition Required")) as (client, server):
        await client.begin()
        await client.datetime()
        await client.end()
        await asyncio.sleep(5)
        await client.datetime()
        with pytest.raises(RefusedError):
            await client.begin()
    assert len(server.connections) == 4
    assert not any(connection.was_reset for connection in server.connections)


@virtual
async def test_a_post_takes_a_fresh_connection() -> None:
    async with met(DONE, DONE, CLOCK_SAID, DONE, CLOCK_SAID) as (client, server):
        await client.begin()
        await client.end()
        await client.datetime()
        await client.begin()
        await client.datetime()
        assert wires(server) == ["0 POST", "1 POST", "1 GET", "2 POST", "2 GET"]
        assert server.open == 1


@virtual
async def test_a_post_gets_no_answer_but_its_own() -> None:
    """One that comes a second time, while the POST is under way, is for nobody."""
    async with met(CLOCK_SAID, answer(b"", "428 No", drip_s=0.01)) as (client, server):
        await client.datetime()
        post = asyncio.create_task(failure(client.begin()))
        await asyncio.sleep(0.001)
        server.connections[0].writer.write(CLOCK_SAID.send)
        assert isinstance(await post, RefusedError)


@pytest.mark.parametrize("how", [DROPPED, RESET])
@virtual
async def test_a_get_that_finds_its_idle_connection_dropped_goes_out_once_more(how: Do) -> None:
    async with met(CLOCK_SAID, how, CLOCK_SAID) as (client, server):
        await client.datetime()
        await asyncio.sleep(1)
        assert await client.datetime() == TIME
        assert wires(server) == ["0 GET", "0 GET", "1 GET"]


@pytest.mark.parametrize("how", [DROPPED, RESET])
@virtual
async def test_exactly_once_more(how: Do) -> None:
    async with met(CLOCK_SAID, how, how) as (client, server):
        await client.datetime()
        error = await failure(client.datetime())
        assert isinstance(error, AnswerLostError)
        assert wires(server) == ["0 GET", "0 GET", "1 GET"]


@pytest.mark.parametrize("how", [DROPPED, RESET])
@virtual
async def test_a_get_lost_on_a_fresh_connection_is_not_sent_again(how: Do) -> None:
    """Not by aiohttp either, which from 3.10 on would."""
    async with met(how, how) as (client, server):
        for times in (1, 2):
            assert isinstance(await failure(client.datetime()), AnswerLostError)
            assert len(server.requests) == times
        assert wires(server) == ["0 GET", "1 GET"]


@virtual
async def test_a_get_whose_answer_had_begun_is_not_sent_again() -> None:
    async with met(CLOCK_SAID, answer(CLOCK, length=500, then=Then.CLOSE)) as (client, server):
        await client.datetime()
        assert isinstance(await failure(client.datetime()), AnswerLostError)
        assert wires(server) == ["0 GET", "0 GET"]


@pytest.mark.parametrize("how", [DROPPED, RESET])
@virtual
async def test_a_post_is_never_sent_again(how: Do) -> None:
    async with met(how, CLOCK_SAID, how) as (client, server):
        assert isinstance(await failure(client.begin()), AnswerLostError)
        await client.datetime()
        error = await failure(client.end())
        assert isinstance(error, AnswerLostError)
        assert error.may_have_acted
        assert wires(server) == ["0 POST", "1 GET", "2 POST"]


@pytest.mark.parametrize("call", ["datetime", "begin"])
@virtual
async def test_a_connection_seen_to_be_dropped_is_not_used(call: str) -> None:
    async with met(CLOCK_SAID, CLOCK_SAID if call == "datetime" else DONE) as (client, server):
        await client.datetime()
        server.drop(0)
        await asyncio.sleep(0.1)
        await getattr(client, call)()
        assert [connection for connection, _ in server.lines()] == [0, 1]


@pytest.mark.parametrize("call", ["datetime", "begin"])
@virtual
async def test_what_nobody_asked_for_is_no_answer(call: str) -> None:
    """An answer that comes twice would be taken for the next one, and each later answer for the one after it."""
    async with met(CLOCK_SAID, answer(b"", "428 No"), CLOCK_SAID) as (client, server):
        await client.datetime()
        server.connections[0].writer.write(CLOCK_SAID.send)
        await asyncio.sleep(0.1)
        assert isinstance(await failure(getattr(client, call)()), RefusedError)
        assert await client.datetime() == TIME
        assert [connection for connection, _ in server.lines()] == [0, 1, 1]


BROKEN = {
    "closed before the answer": Do(then=Then.CLOSE),
    "reset before the answer": Do(then=Then.RESET),
    "closed within the head": Do(b"HTTP/1.1 200 OK\r\nContent-Le", Then.CLOSE),
    "closed within the body": answer(b'{"TM":', length=50, then=Then.CLOSE),
    "reset within the body": answer(b'{"TM":', length=50, then=Then.RESET, drip_s=0.001),
    "closed within a chunk": Do(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"TM"', Then.CLOSE),
}


@pytest.mark.parametrize("call", [MeterClient.datetime, MeterClient.begin])
@pytest.mark.parametrize("how", BROKEN)
@virtual
async def test_an_answer_that_is_lost(how: str, call: Any) -> None:
    """It is lost on a fresh connection, so nothing goes out again: neither a POST nor a GET."""
    async with met(BROKEN[how]) as (client, server):
        error = await failure(call(client))
        assert isinstance(error, AnswerLostError)
        assert error.may_have_acted
        assert len(server.requests) == len(server.connections) == 1


@virtual
async def test_a_length_that_is_too_short() -> None:
    """What is left over is not taken for the next answer."""
    short = answer(CLOCK, length=8)
    async with met(short, answer(CLOCK)) as (client, server):
        assert isinstance(await failure(client.datetime()), NotUnderstoodError)
        assert await client.datetime() == TIME
        assert [connection for connection, _ in server.lines()] == [0, 1]


@virtual
async def test_the_meter_goes_away_between_two_requests() -> None:
    async with met(CLOCK_SAID, DROPPED) as (client, server):
        await client.datetime()
        assert server._server is not None
        server._server.close()
        error = await failure(client.datetime())
        assert isinstance(error, MeterUnreachableError)
        assert wires(server) == ["0 GET", "0 GET"]


@pytest.mark.parametrize("call", ["datetime", "begin"])
@pytest.mark.parametrize("how", [Do(then=Then.STALL), answer(CLOCK, length=99), answer(b" " * 99, drip_s=0.1)])
@virtual
async def test_a_cancelled_request_gives_its_connection_up(how: Do, call: str) -> None:
    async with met(CLOCK_SAID, how, CLOCK_SAID) as (client, server):
        await client.datetime()
        request = asyncio.create_task(getattr(client, call)())
        await asyncio.sleep(0.5)
        assert (len(server.requests), server.open) == (2, 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.sleep(0.3)
        assert server.open == 0
        assert await client.datetime() == TIME
        assert [connection for connection, _ in server.lines()] == ([0, 0, 1] if call == "datetime" else [0, 1, 2])


@pytest.mark.parametrize("call", ["datetime", "begin"])
@virtual
async def test_a_request_out_of_time_gives_its_connection_up(call: str) -> None:
    async with met(CLOCK_SAID, Do(then=Then.STALL), CLOCK_SAID) as (client, server):
        await client.datetime()
        await failure(getattr(client, call)(timeout_s=0.5))
        await asyncio.sleep(0.1)
        assert server.open == 0
        assert await client.datetime() == TIME


@virtual
async def test_closing_and_using_again() -> None:
    async with met(CLOCK_SAID, CLOCK_SAID) as (client, server):
        await client.close()
        await client.datetime()
        await client.close()
        await asyncio.sleep(0.1)
        assert server.open == 0
        await client.close()
        await client.datetime()
        assert wires(server) == ["0 GET", "1 GET"]


@virtual
async def test_a_request_at_the_very_moment_an_idle_connection_is_closed() -> None:
    async with met(*[CLOCK_SAID] * 20) as (client, server):
        for _ in range(20):
            assert await client.datetime() == TIME
            await asyncio.sleep(2.0)
        assert len(server.requests) == 20


def test_it_runs_on_an_ordinary_loop() -> None:
    async def main() -> list[MeterTime]:
        async with met(CLOCK_SAID, DONE, DROPPED, CLOCK_SAID) as (client, _):
            first = await client.datetime()
            await client.begin()
            return [first, await client.datetime()]

    assert asyncio.run(main()) == [TIME, TIME]


def test_a_client_that_was_never_used_needs_no_loop() -> None:
    client = MeterClient("192.168.60.12")
    asyncio.run(client.close())
