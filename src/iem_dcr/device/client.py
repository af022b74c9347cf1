"""The HTTP client of one meter: a coroutine for each node. How it treats connections: `iem_dcr.device.connections`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final, Self, TypeVar

from iem_dcr import ocmf
from iem_dcr.device import messages
from iem_dcr.device.connections import Connections
from iem_dcr.device.telling import told
from iem_dcr.errors import NotUnderstoodError, RefusedError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from iem_dcr.device.connections import Answer
    from iem_dcr.device.messages import Gateway, MeterValue, PublicKey, User
    from iem_dcr.device.telling import OnRequest
    from iem_dcr.meter_time import MeterTime

T = TypeVar("T")

BASE: Final = "/counter/v1/ocmf"
BASE_V2: Final = "/counter/v2/ocmf"


class MeterClient:
    """Speaks with one meter. Requests are to be made one after the other.

    Every coroutine takes ``timeout_s``, the time for the whole of the request (connecting and body included; None takes
    the client's own), and raises:

    * `MeterUnreachableError`: the request did not go out.
    * `MeterTimeoutError`: it went out, and no whole answer came in time.
    * `AnswerLostError`: the connection broke before a whole answer was there.
    * `RefusedError`: a status that is not 200.
    * `NotUnderstoodError`: an answer that is not this node's; a redirect; more than 256 KiB, or 512 on the wire.

    Attributes:
        address: ``host:port``.
        on_request: is told of each request that came to its end: method, node, seconds it took, and what it failed with
            or None. It must not raise.
    """

    def __init__(self, host: str, port: int = 80, *, timeout_s: float = 5.0) -> None:
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.on_request: OnRequest | None = None
        self._connections = Connections(self.address, timeout_s=timeout_s)
        self._transaction_base: str | None = None

    @property
    def heard_s(self) -> float | None:
        """When a whole answer last came, whatever its status, on the loop's clock; None before the first."""
        return self._connections.heard_s

    async def __aenter__(self) -> Self:
        """Connections are made when they are needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self.close()

    async def close(self) -> None:
        """Close every connection. The client may be used again; it then connects anew."""
        await self._connections.close()

    # --- the nodes ---------------------------------------------------------------------------------------------------

    async def gw(self, *, timeout_s: float | None = None) -> Gateway:
        """GET /gw: charge point type and id, and the clock."""
        return await self._get("/gw", messages.gateway, timeout_s)

    async def set_gw(self, CT: str, CI: str, TM: str, *, timeout_s: float | None = None) -> None:
        """POST /gw: set charge point type and id and the clock; accepted once per power-up."""
        await self._post("/gw", {"CT": CT, "CI": CI, "TM": TM}, timeout_s)

    async def set_tariff(self, TT: str, *, timeout_s: float | None = None) -> None:
        """POST /tariff: set the tariff text."""
        await self._post("/tariff", {"TT": TT}, timeout_s)

    async def metervalue(self, *, timeout_s: float | None = None) -> MeterValue:
        """GET /metervalue: a live value."""
        return await self._get("/metervalue", messages.meter_value, timeout_s)

    async def publickey(self, *, timeout_s: float | None = None) -> PublicKey:
        """GET /publickey: the key that the meter's receipts verify with."""
        return await self._get("/publickey", messages.public_key, timeout_s)

    async def datetime(self, *, timeout_s: float | None = None) -> MeterTime:
        """GET /datetime: the meter's clock."""
        return await self._get("/datetime", messages.datetime_answer, timeout_s)

    async def set_datetime(self, TM: str, *, timeout_s: float | None = None) -> None:
        """POST /datetime: set the clock."""
        await self._post("/datetime", {"TM": TM}, timeout_s)

    async def set_user(self, user: User, *, timeout_s: float | None = None) -> None:
        """POST /user: assign the user of the next transaction."""
        await self._post("/user", user.body(), timeout_s)

    async def begin(self, *, timeout_s: float | None = None) -> None:
        """POST /receipt ``{"TX":"B"}``: begin a transaction."""
        await self._post("/receipt", {"TX": "B"}, timeout_s)

    async def end(self, *, timeout_s: float | None = None) -> None:
        """POST /receipt ``{"TX":"E"}``: end the transaction."""
        await self._post("/receipt", {"TX": "E"}, timeout_s)

    async def receipt(self, *, timeout_s: float | None = None) -> str | None:
        """GET /receipt: the signed tuple of the transaction just ended, or None while there is none."""
        return await self._tuple(BASE, "/receipt", timeout_s)

    async def transaction(self, *, timeout_s: float | None = None) -> str | None:
        """GET /transaction: the last signed tuple, also after a restart; None when there has never been one.

        Firmware has it under v1 or v2: the one that gave a tuple is asked first from then on. A 404 of both, or an
        answer without a tuple, is a meter that has signed nothing yet; any other refusal is raised.
        """
        bases = [BASE, BASE_V2] if self._transaction_base != BASE_V2 else [BASE_V2, BASE]
        refusal: RefusedError | None = None
        now_s = asyncio.get_running_loop().time
        ends_s = now_s() + self._connections.limit_s(timeout_s)
        for base in bases:
            try:
                text = await self._tuple(base, "/transaction", ends_s - now_s())
            except RefusedError as error:
                if error.status != 404:
                    refusal = error
                continue
            if text is not None:
                self._transaction_base = base
                return text
        if refusal is not None:
            raise refusal
        return None

    async def answer(self, node: str, *, base: str = BASE, timeout_s: float | None = None) -> Answer:
        """GET a node and return the answer as it is, whatever its status and whether or not it is this node's.

        Raises `RefusedError` never, and `NotUnderstoodError` only for what is no HTTP, or more than 256 KiB.
        """
        with told(self.on_request, "GET", node):
            return await self._connections.ask("GET", base, node, None, timeout_s)

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _get(self, node: str, read: Callable[[object], T], timeout_s: float | None) -> T:
        with told(self.on_request, "GET", node):
            body = await self._request("GET", BASE, node, None, timeout_s)
            try:
                return read(messages.decode(body))
            except messages.ShapeError as error:
                raise NotUnderstoodError(self.address, f"GET {node}", error.path, error.what) from error

    async def _tuple(self, base: str, node: str, timeout_s: float | None) -> str | None:
        with told(self.on_request, "GET", node):
            body = await self._request("GET", base, node, None, timeout_s)
            try:
                return ocmf.find_tuple(body.decode())
            except UnicodeDecodeError as error:
                raise NotUnderstoodError(self.address, f"GET {node}", "", "not a text in UTF-8") from error

    async def _post(self, node: str, body: Mapping[str, object], timeout_s: float | None) -> None:
        content = json.dumps(body, separators=(",", ":")).encode()
        with told(self.on_request, "POST", node):
            await self._request("POST", BASE, node, content, timeout_s)

    async def _request(self, method: str, base: str, node: str, body: bytes | None, timeout_s: float | None) -> bytes:
        name = f"{method} {node}"
        answer = await self._connections.ask(method, base, node, body, timeout_s)
        if 300 <= answer.status < 400:
            target = printable(answer.header("Location") or "nowhere")
            raise NotUnderstoodError(self.address, name, "", f"a redirect ({answer.status}) to {target}")
        if answer.status != 200:
            raise RefusedError(self.address, name, answer.status, answer.body[:200].decode(errors="replace"))
        return answer.body
