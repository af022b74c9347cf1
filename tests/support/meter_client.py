"""A `MeterClient` at a server that follows a script, and what has to be true of every request and error."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from iem_dcr.device.client import MeterClient
from iem_dcr.errors import MeterError
from iem_dcr.meter_time import MeterTime
from tests.support.raw_server import Do, RawServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

TM = "2026-03-01T13:00:00,000+0100"
CLOCK = {"TM": f"{TM} S"}
CLOCK_BODY = json.dumps(CLOCK).encode()
TIME = MeterTime(datetime(2026, 3, 1, 12, tzinfo=UTC), "S")


@contextlib.asynccontextmanager
async def connected(
    *script: Do, timeout_s: float = 5.0, pause_s: float = 0.0
) -> AsyncIterator[tuple[MeterClient, RawServer]]:
    """Yield a client and its server. Each request has a connection of its own, and none is left open."""
    async with RawServer(list(script)) as server:
        yield MeterClient("127.0.0.1", server.port, timeout_s=timeout_s, pause_s=pause_s), server
        await asyncio.sleep(1)
        assert server.open == 0
        assert [request.connection for request in server.requests] == list(range(len(server.requests)))


async def failure(request: Awaitable[object]) -> MeterError:
    """Return the error that a request ends with; it names its meter and node, and is fit for a log."""
    with pytest.raises(MeterError) as failed:
        await request
    error = failed.value
    assert str(error).startswith(f"meter {error.meter}, {error.node}: ")
    assert str(error).isprintable()
    assert len(str(error)) < 400
    return error


def now_s() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()
