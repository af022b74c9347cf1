"""The simulated meter on a real socket: HTTP, connection habits, faults, power cuts, the control path."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest

from iem_dcr.simulator import BASE, Fault, SimulatedMeter, SimulatorOptions, SimulatorServer
from tests.support.virtual_time import run_virtual, virtual

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BEGIN = {"TX": "B"}


class Client:
    """Asks a server by an ordinary HTTP client."""

    def __init__(self, server: SimulatorServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.meter = server.meter
        self.session = session

    async def ask(self, method: str, path: str, body: object = None, timeout_s: float = 5.0) -> tuple[int, bytes]:
        url = f"http://{self.server.address}{path}"
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self.session.request(method, url, json=body, timeout=timeout) as response:
            return response.status, await response.read()

    async def get(self, node: str) -> tuple[int, bytes]:
        return await self.ask("GET", BASE + node)

    async def begin(self) -> tuple[int, bytes]:
        return await self.ask("POST", BASE + "/receipt", BEGIN)

    async def raw(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self.server.host, self.server.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


@contextlib.asynccontextmanager
async def client(**options: object) -> AsyncIterator[Client]:
    chosen = SimulatorOptions(**cast("dict[str, Any]", {"private_key": 77, "MS": "1SIM0000000042"} | options))
    async with SimulatorServer(chosen) as server, aiohttp.ClientSession() as session:
        yield Client(server, session)


@virtual
async def test_a_session_over_http() -> None:
    async with client() as http:
        assert await http.begin() == (200, b"")
        await asyncio.sleep(10)
        assert (await http.ask("POST", BASE + "/receipt", {"TX": "E"}))[0] == 200
        assert (await http.get("/receipt"))[0] == 428
        await asyncio.sleep(0.12)
        assert await http.get("/receipt") == (200, http.meter.signed[0].text.encode())
        status, body = await http.get("/metervalue")
        assert (status, json.loads(body)["MS"]) == (200, "1SIM0000000042")
        assert (await http.get("/nothing"))[0] == 404
        assert (await http.ask("DELETE", BASE + "/gw"))[0] == 405


HEAD = f"POST {BASE}/receipt HTTP/1.1\r\nHost: meter\r\nConnection: close\r\nExpect: 100-continue\r\n".encode()
READ_GW = f"GET {BASE}/gw HTTP/1.1\r\nHost: meter\r\n\r\n".encode()


@virtual
async def test_chunked_bodies_and_expectations_are_understood() -> None:
    async with client() as http:
        reader, writer = await asyncio.open_connection(http.server.host, http.server.port)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b'4\r\n{"TX\r\n6\r\n":"B"}\r\n0\r\n\r\n')
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        assert http.meter.running
        writer.close()
        await writer.wait_closed()


@virtual
async def test_expectation_may_be_ignored_and_what_is_not_http_is_refused() -> None:
    async with client(expect_continue=False) as http:
        assert (await http.raw(b"hello\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert (await http.ask("POST", BASE + "/tariff", {"TT": "x" * 100_000}))[0] == 413
        answer = await http.raw(HEAD + b'Content-Length: 10\r\n\r\n{"TX":"B"}')
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@virtual
async def test_the_answer_to_a_head_has_no_body() -> None:
    async with client() as http:
        head = READ_GW.replace(b"GET", b"HEAD")
        sent = head + head.replace(f"{BASE}/gw".encode(), b"/_sim/state") + READ_GW.replace(b"1.1", b"1.0")
        answers = (await http.raw(sent)).split(b"\r\n\r\n")
        assert [answer[:13] for answer in answers[:3]] == [b"HTTP/1.1 405 ", b"HTTP/1.1 404 ", b"HTTP/1.1 200 "]


@virtual
async def test_a_given_meter_is_served_and_a_taken_port_refused() -> None:
    meter = SimulatedMeter(monotonic=asyncio.get_running_loop().time)
    async with SimulatorServer(meter) as server:
        assert server.meter is meter
        assert server.address == f"127.0.0.1:{server.port}"
        with pytest.raises(OSError, match="in use"):
            await SimulatorServer(SimulatorOptions(), port=server.port).__aenter__()
    async with server as again, aiohttp.ClientSession() as session:
        assert (await Client(again, session).get("/gw"))[0] == 200
    assert meter.power_listeners == []


@virtual
async def test_listening_on_the_newer_protocol() -> None:
    server = SimulatorServer(None, host="::1")
    try:
        await server.__aenter__()
    except OSError as error:
        pytest.skip(f"this host has no IPv6: {error}")
    assert server.address == f"[::1]:{server.port}"
    await server.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("habit", "pause_s", "connections"),
    [("keep", 60.0, 1), ("close", 0.0, 3), ("drop-idle", 0.4, 1), ("drop-idle", 0.6, 3)],
)
def test_connection_habits(habit: str, pause_s: float, connections: int) -> None:
    async def main() -> None:
        used: set[int] = set()

        async def note(_session: object, _context: object, _params: object) -> None:
            used.add(len(used))

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(note)
        chosen = SimulatorOptions(**cast("dict[str, Any]", {"keep_alive": habit}))
        connector = aiohttp.TCPConnector(keepalive_timeout=1000)
        async with (
            SimulatorServer(chosen) as server,
            aiohttp.ClientSession(trace_configs=[trace], connector=connector) as session,
        ):
            for _ in range(3):
                assert (await Client(server, session).get("/gw"))[0] == 200
                await asyncio.sleep(pause_s)
        assert len(used) == connections

    run_virtual(main())


@virtual
async def test_a_reused_connection_is_dropped_and_its_request_lost() -> None:
    async with client(keep_alive="drop-reused") as http:
        assert (await http.get("/gw"))[0] == 200
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await http.begin()
        assert not http.meter.running
        assert (http.meter.requests[-1].status, http.meter.requests[-1].acted) == (None, False)
        assert (await http.begin())[0] == 200


@virtual
async def test_fault_refuse_and_server_error() -> None:
    async with client() as http:
        http.meter.faults.add(
            Fault("refuse", node="/receipt", method="POST", count=2, body="not now"),
            Fault("refuse", node="/gw", status=403),
            Fault("server-error", node="/receipt"),
            Fault("server-error", node="/receipt", status=503, acts=True),
        )
        assert await http.begin() == (428, b"not now")
        assert await http.begin() == (428, b"not now")
        assert (await http.get("/gw"))[0] == 403
        assert (await http.begin())[0] == 500
        assert http.meter.state.begun == 0
        assert (await http.begin())[0] == 503
        assert http.meter.state.begun == 1
        assert (await http.get("/gw"))[0] == 200


@pytest.mark.parametrize(("fault", "error", "acted"), [
    (Fault("lose-request"), aiohttp.ServerDisconnectedError, False),
    (Fault("lose-answer"), aiohttp.ServerDisconnectedError, True), (Fault("reset"), aiohttp.ClientOSError, False),
    (Fault("stall"), TimeoutError, False), (Fault("stall", acts=True), TimeoutError, True),
    (Fault("stall", delay_s=2), aiohttp.ServerDisconnectedError, False), (Fault("drip", delay_s=1), TimeoutError, True),
    (Fault("garbage-http"), aiohttp.ClientResponseError, True),
    (Fault("wrong-length"), aiohttp.ClientPayloadError, True), (Fault("garbage"), UnicodeDecodeError, True),
], ids=lambda value: value.kind if isinstance(value, Fault) else None)  # fmt: skip
def test_faults_on_the_wire(fault: Fault, error: type[Exception], *, acted: bool) -> None:
    async def main() -> None:
        async with client() as http:
            http.meter.faults.add(fault)
            with pytest.raises(error):
                (await http.begin())[1].decode()
            assert http.meter.running is acted
            assert http.meter.requests[-1].acted is acted
            assert (await http.get("/metervalue"))[0] == 200

    run_virtual(main())


@virtual
async def test_closing_the_server_does_not_wait_for_requests() -> None:
    async with client() as http:
        http.meter.faults.add(Fault("stall", delay_s=3600))
        asking = asyncio.create_task(http.get("/gw"))
        await asyncio.sleep(0.1)
    with pytest.raises((aiohttp.ClientError, TimeoutError)):
        await asking
    assert asyncio.get_running_loop().time() < 1


@virtual
async def test_without_power_connections_are_dropped_and_refused() -> None:
    async with client() as http:
        assert (await http.begin())[0] == 200
        http.meter.faults.add(Fault("stall", delay_s=3600))
        asking = asyncio.create_task(http.get("/gw"))
        await asyncio.sleep(0.1)
        http.meter.power_cycle(off_s=2, boot_s=3)
        with pytest.raises(aiohttp.ClientConnectionError):
            await asking
        for _ in range(4):
            with pytest.raises(aiohttp.ClientConnectorError):
                await http.get("/gw")
            await asyncio.sleep(1)
        http.meter.power_cycle(off_s=2, boot_s=3)
        await asyncio.sleep(4.9)
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get("/gw")
        await asyncio.sleep(0.2)
        assert json.loads((await http.get("/gw"))[1])["CT"] == ""
        assert [record.TX for record in http.meter.signed] == ["P"]


@virtual
async def test_a_power_cut_while_the_meter_acts_loses_the_answer() -> None:
    async with client() as http:
        http.meter.state.watchers.append(lambda _: http.meter.power_cycle(off_s=2, boot_s=3))
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.begin()
        assert http.meter.state.begun == 1


@virtual
async def test_it_is_controlled_over_http() -> None:
    async with client() as http:
        assert (await http.ask("POST", "/_sim/faults", {"kind": "refuse", "node": "/gw"}))[0] == 200
        assert (await http.get("/gw"))[0] == 428
        status, body = await http.ask("POST", "/_sim/power-cycle", {"off_s": 1, "boot_s": 1})
        assert (status, json.loads(body)) == (200, {"reachable_after_s": 2})
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.ask("GET", "/_sim/state")
        await asyncio.sleep(2.1)
        assert json.loads((await http.ask("GET", "/_sim/state"))[1])["signed"] == []


@virtual
async def test_a_request_that_was_given_up_is_acted_on_later() -> None:
    async with client() as http:
        http.meter.faults.add(Fault("act-late", delay_s=3))
        with pytest.raises(TimeoutError):
            await http.ask("POST", BASE + "/receipt", BEGIN, timeout_s=1)
        assert http.meter.state.begun == 0
        await asyncio.sleep(2.1)
        assert http.meter.running
        assert http.meter.requests[-1].acted


async def connected(server: SimulatorServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(READ_GW)
    return reader, writer


@pytest.mark.parametrize("two_segments", [True, False])
def test_head_and_body_come_in_two_writes_or_in_one(*, two_segments: bool) -> None:
    async def main() -> None:
        async with client(two_segments=two_segments) as http:
            reader, writer = await connected(http.server)
            assert b"Content-Length" in await reader.readuntil(b"\r\n\r\n")
            assert json.loads(await reader.readuntil(b"}"))["CT"] == ""
            writer.close()

    run_virtual(main())


@pytest.mark.parametrize("habit", ["one-waits", "one-refused"])
def test_second_connection_waits_or_is_refused(habit: str) -> None:
    async def main() -> None:
        async with client(connections=habit) as http:
            reader, writer = await connected(http.server)
            assert b"200" in await reader.readline()
            if habit == "one-waits":
                second, second_writer = await connected(http.server)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(second.readline(), 5)
                writer.close()
                assert b"200" in await second.readline()
                second_writer.close()
            else:
                with pytest.raises(ConnectionRefusedError):
                    await connected(http.server)
                writer.close()
                await asyncio.sleep(0.1)
                assert (await http.get("/gw"))[0] == 200

    run_virtual(main())


@virtual
async def test_two_meters_swap_addresses() -> None:
    async with client(MS="1") as one, client(MS="2") as other:
        first, second = one.server.meter, other.server.meter
        await one.begin()
        one.server.serve(second)
        other.server.serve(first)
        await asyncio.sleep(0.1)
        assert [json.loads((await http.get("/metervalue"))[1])["MS"] for http in (one, other)] == ["2", "1"]
        assert json.loads((await other.get("/metervalue"))[1])["XT"] is True
        first.power_cycle(1, 1)
        with pytest.raises(aiohttp.ClientConnectorError):
            await other.get("/gw")
        assert (await one.get("/gw"))[0] == 200


def test_connection_accepted_during_cancellation_leaves_no_socket() -> None:
    """The garbage collector says what was left: a `ResourceWarning` is an error here."""

    async def cancelled_at_once() -> None:
        meter = SimulatedMeter(SimulatorOptions(), monotonic=asyncio.get_running_loop().time)
        async with SimulatorServer(meter) as server:
            host, port = server.address.split(":")
            with socket.create_connection((host, int(port))):
                for task in await serving():
                    task.cancel()

    async def serving() -> set[asyncio.Task[Any]]:
        """Return the tasks that serve, in the turn in which they were made."""
        while not (others := asyncio.all_tasks() - {asyncio.current_task()}):
            await asyncio.sleep(0)
        return others

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(cancelled_at_once())
    gc.collect()
