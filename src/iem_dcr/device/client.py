"""The HTTP client of one meter: a coroutine for each node. `iem_dcr.device.transport` carries the requests."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final, Self, TypeVar

from iem_dcr import ocmf
from iem_dcr.device import messages
from iem_dcr.device.transport import Transport, node_of
from iem_dcr.errors import MeterError, NotUnderstoodError, ReceiptError, RefusedError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import TypeAlias

    from iem_dcr.device.messages import Gateway, MeterValue, PublicKey, User
    from iem_dcr.device.transport import Answer, Connect
    from iem_dcr.meter_time import MeterTime
    from iem_dcr.ocmf import Receipt

    OnRequest: TypeAlias = Callable[[str, str, float, MeterError | None], None]
    """Called with method, node, duration in seconds, and the error of the request or None."""

T = TypeVar("T")

BASE: Final = "/counter/v1/ocmf"
BASE_V2: Final = "/counter/v2/ocmf"


class MeterClient:
    """Talks to one meter. The caller makes one request at a time.

    Every coroutine takes ``timeout_s``, the limit for the whole request, including connecting and reading the body.
    None means the client's own limit. Every coroutine raises:

    * `MeterUnreachableError`: the request did not go out.
    * `MeterTimeoutError`: the request went out, and no complete answer came in time.
    * `AnswerLostError`: the connection broke before the answer was complete.
    * `RefusedError`: the status is not 2xx. After 4xx the meter did not act on this request. After any other status it
      may have acted (`MeterError.may_have_acted`).
    * `NotUnderstoodError`: the answer is not one of this node, is a redirect, or is larger than 256 KiB.

    Attributes:
        address: ``host:port``.
        on_request: called at the end of each request. It must not raise.
    """

    def __init__(
        self,
        host: str,
        port: int = 80,
        *,
        timeout_s: float = 5.0,
        pause_s: float = 0.0,
        connect: Connect | None = None,
    ) -> None:
        """Requests begin at least ``pause_s`` apart, to leave room for a driver; ``connect``: see `Transport`."""
        self.on_request: OnRequest | None = None
        self._transport = Transport(host, port, timeout_s=timeout_s, connect=connect)
        self._pause_s = pause_s
        self._asked_s: float | None = None
        self._transaction_base = BASE

    @property
    def address(self) -> str:
        """``host:port``."""
        return self._transport.address

    @property
    def last_response_s(self) -> float | None:
        """When the last complete answer came, with any status, on the loop's clock; None before the first."""
        return self._transport.last_response_s

    async def __aenter__(self) -> Self:
        """Nothing is held between requests."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held between requests."""

    # --- the nodes ---------------------------------------------------------------------------------------------------

    async def gw(self, *, timeout_s: float | None = None) -> Gateway:
        """GET /gw: charge point type and id, and the clock."""
        return await self._get("/gw", messages.gateway, timeout_s)

    async def set_gw(self, CT: str, CI: str, TM: str, *, timeout_s: float | None = None) -> None:
        """POST /gw: set charge point type and id and the clock. The meter accepts it once per power-up."""
        await self._post("/gw", {"CT": CT, "CI": CI, "TM": TM}, timeout_s)

    async def set_tariff(self, TT: str, *, timeout_s: float | None = None) -> None:
        """POST /tariff: set the tariff text, on the display and in the signed record."""
        await self._post("/tariff", {"TT": TT}, timeout_s)

    async def metervalue(self, *, timeout_s: float | None = None) -> MeterValue:
        """GET /metervalue: a live value, a picture of some moment ago."""
        return await self._get("/metervalue", messages.meter_value, timeout_s)

    async def publickey(self, *, timeout_s: float | None = None) -> PublicKey:
        """GET /publickey: the key that verifies the meter's receipts."""
        return await self._get("/publickey", messages.public_key, timeout_s)

    async def datetime(self, *, timeout_s: float | None = None) -> MeterTime | None:
        """GET /datetime: the meter's clock, or None if it cannot be read."""
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

    async def receipt(self, *, timeout_s: float | None = None) -> Receipt | None:
        """GET /receipt: the signed tuple of the transaction just ended, or None if there is none.

        A 4xx status, an empty body and null all mean that there is none.
        """
        return await self._receipt(BASE, "/receipt", timeout_s)

    async def transaction(self, *, timeout_s: float | None = None) -> Receipt | None:
        """GET /transaction: the last signed tuple, also after a restart, or None if there has never been one.

        Firmware has the node under v1 or v2. The one that has given a tuple is asked first from then on. If one of them
        answers with a server error and the other has no tuple, that error is raised.
        """
        failed: RefusedError | None = None
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + (self._transport.timeout_s if timeout_s is None else timeout_s)
        for base in (self._transaction_base, BASE_V2 if self._transaction_base == BASE else BASE):
            try:
                receipt = await self._receipt(base, "/transaction", ends_s - loop.time())
            except RefusedError as error:
                failed = error
                continue
            if receipt is not None:
                self._transaction_base = base
                return receipt
        if failed is not None:
            raise failed
        return None

    async def answer(self, node: str, *, base: str = BASE, timeout_s: float | None = None) -> Answer:
        """GET a node and return the raw answer, with any status and any content.

        Never raises `RefusedError`. Raises `NotUnderstoodError` only if the answer is not HTTP or is over 256 KiB.
        """
        return await self._request("GET", base + node, timeout_s, lambda answer: answer)

    async def pause(self) -> None:
        """Wait until the next request may go out, so that a caller can measure the request alone."""
        if self._asked_s is not None and self._pause_s > 0:
            await asyncio.sleep(max(0.0, self._asked_s + self._pause_s - asyncio.get_running_loop().time()))

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _get(self, node: str, read: Callable[[object], T], timeout_s: float | None) -> T:
        def understood(answer: Answer) -> T:
            self._check_status(f"GET {node}", answer)
            try:
                return read(messages.decode(answer.body))
            except messages.ShapeError as error:
                raise NotUnderstoodError(self.address, f"GET {node}", error.path, error.what) from error

        return await self._request("GET", BASE + node, timeout_s, understood)

    async def _post(self, node: str, body: Mapping[str, object], timeout_s: float | None) -> None:
        content = json.dumps(body, separators=(",", ":")).encode()
        name = f"POST {node}"
        await self._request("POST", BASE + node, timeout_s, lambda answer: self._check_status(name, answer), content)

    async def _receipt(self, base: str, node: str, timeout_s: float | None) -> Receipt | None:
        def found(answer: Answer) -> Receipt | None:
            if 400 <= answer.status < 500:
                return None
            self._check_status(f"GET {node}", answer)
            try:
                text = ocmf.find_tuple(answer.body.decode())
                return None if text is None else ocmf.parse(text)
            except (UnicodeDecodeError, ReceiptError) as error:
                raise NotUnderstoodError(self.address, f"GET {node}", "", f"no OCMF tuple: {error}") from error

        return await self._request("GET", base + node, timeout_s, found)

    async def _request(
        self,
        method: str,
        path: str,
        timeout_s: float | None,
        read: Callable[[Answer], T],
        body: bytes | None = None,
    ) -> T:
        """Make one request and read its answer. Every request goes through here."""
        if self._pause_s > 0:
            await self.pause()
        loop = asyncio.get_running_loop()
        self._asked_s = began_s = loop.time()
        try:
            result = read(await self._transport.request(method, path, body, timeout_s))
        except MeterError as error:
            if self.on_request is not None:
                self.on_request(method, node_of(path), loop.time() - began_s, error)
            raise
        if self.on_request is not None:
            self.on_request(method, node_of(path), loop.time() - began_s, None)
        return result

    def _check_status(self, name: str, answer: Answer) -> None:
        if 300 <= answer.status < 400:
            target = printable(answer.header("Location") or "nowhere")
            raise NotUnderstoodError(self.address, name, "", f"a redirect ({answer.status}) to {target}")
        if not 200 <= answer.status < 300:
            raise RefusedError(self.address, name, answer.status, answer.body[:200].decode(errors="replace"))
