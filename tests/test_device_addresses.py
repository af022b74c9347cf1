"""Where the meter is: numbers, names, names that nobody answers for, and what is said where there is no connection."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr.device.client import MeterClient
from iem_dcr.errors import MeterUnreachableError
from tests.support.command_line import PATIENCE_S
from tests.support.meter_client import CLOCK, TIME, connected, failure, now_s
from tests.support.raw_server import RawServer, answer
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 2.0


def test_the_address_of_a_meter() -> None:
    assert MeterClient("192.168.60.12").address == "192.168.60.12:80"
    assert MeterClient("meter", 8080).address == "meter:8080"
    assert MeterClient("fe80::1%eth0", 80).address == "[fe80::1%eth0]:80"


@pytest.mark.parametrize(
    ("host", "port", "header"),
    [("192.168.60.12", 80, "192.168.60.12"), ("meter", 8080, "meter:8080"), ("zähler.lan", 80, "xn--zhler-gra.lan"),
     ("fe80::1%eth0", 80, "[fe80::1]"), ("fd00::80", 81, "[fd00::80]:81")],
)  # fmt: skip
@virtual
async def test_the_host_header(host: str, port: int, header: str) -> None:
    async with RawServer([answer(CLOCK)]) as server:

        async def connect(*asked: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            assert asked == (host, port)
            return await asyncio.open_connection("127.0.0.1", server.port)

        assert await MeterClient(host, port, connect=connect).datetime() == TIME
        assert server.requests[0].headers["host"] == header


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("127.0.0.1", "Connection refused. Is the meter powered, and is this its address?"),
        ("::1", "Is the meter powered, and is this its address?"),
        ("m" * 64, "it is not a valid host name"),
        ("ä" * 64, "it is not a valid host name"),
        ("a..b", "it is not a valid host name"),
        ("fe80::1", "fe80::1 is a link-local address, and its zone is missing: fe80::1%eth0"),
        ("fe80::1%nosuch0", "this host has no network interface nosuch0"),
    ],
)
@virtual
async def test_a_meter_that_cannot_be_reached(host: str, said: str) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        client = MeterClient(host, bound.getsockname()[1])
        for request in (client.gw(), client.begin()):
            error = await failure(request)
            assert isinstance(error, MeterUnreachableError)
            assert not error.may_have_acted
            assert said in str(error)


def test_names_are_looked_up() -> None:
    """In real time: virtual time does not wait for the thread of a look-up."""

    async def main() -> None:
        async with RawServer([answer(CLOCK)]) as server:
            assert await MeterClient("localhost", server.port).datetime() == TIME
        error = await failure(MeterClient("meter.invalid", timeout_s=30).metervalue())
        assert isinstance(error, MeterUnreachableError)
        assert "this host cannot resolve the name (" in error.brief

    asyncio.run(main())


def test_the_addresses_of_a_name_are_tried_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolver(_host: str, port: int, *, flags: int = 0, **_: object) -> list[object]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "it is a name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (f"127.0.0.{last}", port)) for last in (2, 1)]

    async def main() -> None:
        async with RawServer([answer(CLOCK)]) as server:
            monkeypatch.setattr(socket, "getaddrinfo", resolver)
            assert await MeterClient("meter.example", server.port).datetime() == TIME
        assert "Connection refused" in str(await failure(MeterClient("meter.example", server.port).datetime()))

    asyncio.run(main())


class SilentResolver:
    """Says nothing of any name until it is released."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = threading.Event()
        self._numbers = socket.getaddrinfo

    def __call__(self, host: str, port: int, **named: Any) -> Any:
        if named.get("flags", 0) & socket.AI_NUMERICHOST:
            return self._numbers(host, port, **named)
        self.asked.append(host)
        self.released.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def release(self) -> None:
        self.released.set()
        for thread in threading.enumerate():
            if thread.name == "look-up":
                thread.join()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentResolver]:
    silent = SilentResolver()
    monkeypatch.setattr(socket, "getaddrinfo", silent)
    yield silent
    silent.release()


@virtual
async def test_silent_resolver_delays_only_its_own_requests(resolver: SilentResolver) -> None:
    """One look-up is in flight for a name, however often it is asked for."""
    async with connected(answer(CLOCK), answer(CLOCK)) as (numeric, _):
        named = MeterClient("meter.example", timeout_s=LIMIT_S)
        other = MeterClient("other.example", timeout_s=LIMIT_S)
        first = [asyncio.create_task(failure(client.begin())) for client in (named, named, other)]
        assert await numeric.datetime() == TIME
        assert now_s() < 0.1
        for error in await asyncio.gather(*first):
            assert isinstance(error, MeterUnreachableError)
            assert f"no connection within {LIMIT_S:.1f} s" in str(error)
        await failure(named.begin())
        assert await numeric.datetime() == TIME
        assert sorted(resolver.asked) == ["meter.example", "other.example"]
        resolver.release()
        assert isinstance(await failure(named.begin()), MeterUnreachableError)
        assert resolver.asked.count("meter.example") == 2


ENDING = """
import asyncio, contextlib, socket, time
from iem_dcr.device.client import MeterClient

numbers = socket.getaddrinfo
def resolver(host, *rest, flags=0, **named):
    if flags or host == "unknown.example":
        return numbers(host, *rest, flags=socket.AI_NUMERICHOST, **named)
    time.sleep(60 if host == "silent.example" else 0.5)
    return numbers(host, *rest, flags=socket.AI_NUMERICHOST, **named)
socket.getaddrinfo = resolver

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60.0  # a busy computer is no fault
    names = ["silent.example", "late.example", "unknown.example"]
    hosts = [*names, "fe80::1", "fe80::1%lo", "127.0.0.1", "::1", "240.0.0.1", "192.0.2.1"]
    asked = [MeterClient(host, 9, timeout_s=30).gw() for host in hosts]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await asyncio.gather(*asked, return_exceptions=True)

asyncio.run(main())
time.sleep(0.5)
"""


def test_process_ends_in_good_order_during_a_look_up() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", ENDING],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
