"""What lies between a process and its meter: it sees every request, has answers lost or spoilt, and springs traps."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import aiohttp
from aiohttp import web
from iem_dcr.simulator.answer import Answer

from iem_dcr.simulator import wire
from iem_dcr.simulator.faults import FaultPlan
from iem_dcr.simulator.nodes import node_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from iem_dcr.simulator.faults import Fault

FORWARDED_WITHIN_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Trap:
    """Something that happens when a request passes.

    Attributes:
        method, node: of the request.
        is_acted: after the meter has acted on it; else before.
        delay_s: so long after that.
        spring: what happens.
    """

    method: str
    node: str
    is_acted: bool
    delay_s: float
    spring: Callable[[], None]


class Proxy:
    """Stands at a port in the place of a meter.

    Args:
        port: of the meter, on 127.0.0.1.
        acted: gets the code (B or E), the card of the user set last and whether the answer is known, of each accepted
            POST /receipt.

    Attributes:
        port: its own.
        faults: what happens to coming requests.
        trap: what is set.
    """

    def __init__(self, port: int, acted: Callable[[str, str, bool], None]) -> None:
        self.port = 0
        self.faults = FaultPlan()
        self.trap: Trap | None = None
        self._meter = f"http://127.0.0.1:{port}"
        self._acted = acted
        self._card = ""

    async def __aenter__(self) -> Self:
        """Listen."""
        timeout = aiohttp.ClientTimeout(total=FORWARDED_WITHIN_S)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True))
        self._web = web.Server(self._handle, access_log=None)
        self._server = await asyncio.get_running_loop().create_server(self._web, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop every connection."""
        self._server.close()
        for connection in self._web.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._web.shutdown(0.05)
        await self._session.close()

    async def ask(self, method: str, path: str, value: object = None) -> dict[str, object]:
        """Use the meter's control path; a meter without power is waited for."""
        async with asyncio.timeout(60):
            while True:
                try:
                    async with self._session.request(method, f"{self._meter}{path}", json=value) as response:
                        answer: dict[str, object] = await response.json()
                        return answer
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        try:
            body = await request.read()
        except (ConnectionError, web.RequestPayloadError):
            return web.Response(status=400)
        if transport is None:
            return web.Response(status=400)
        method, node = request.method, node_of(request.path)
        fault = self.faults.take(method, node)
        self._spring(method, node, is_acted=False)
        answer = None
        if fault is None or fault.acted:
            answer = await self._forwarded(method, request.path, body)
            self._spring(method, node, is_acted=True)
        return await self._answered(transport, fault, answer)

    async def _forwarded(self, method: str, path: str, body: bytes) -> Answer | None:
        node = node_of(path)
        # What is on its way arrives, whatever becomes of the process that sent it.
        try:
            async with self._session.request(method, f"{self._meter}{path}", data=body) as response:
                answer = Answer(response.status, await response.read(), response.content_type)
        except (aiohttp.ClientError, TimeoutError, OSError):
            answer = None
        if method == "POST" and node in ("/user", "/receipt") and (answer is None or answer.status == 200):
            fields = json.loads(body)
            if node == "/user":
                self._card = fields["ID"]
            else:
                self._acted(fields["TX"], self._card, answer is not None)
        return answer

    async def _answered(
        self, transport: asyncio.Transport, fault: Fault | None, answer: Answer | None
    ) -> web.StreamResponse:
        instead = answer if fault is None else wire.substitute(fault, answer)
        if instead is not None:
            return web.Response(status=instead.status, body=instead.body, content_type=instead.content_type)
        if fault is None:
            transport.abort()  # the meter has no power
        else:
            await wire.spoil(transport, fault, answer, asyncio.sleep)
        return web.Response(status=500)  # to nobody

    def _spring(self, method: str, node: str, *, is_acted: bool) -> None:
        trap = self.trap
        if trap is None or (trap.method, trap.node, trap.is_acted) != (method, node, is_acted):
            return
        self.trap = None
        if trap.delay_s > 0:
            asyncio.get_running_loop().call_later(trap.delay_s, trap.spring)
        else:
            trap.spring()
