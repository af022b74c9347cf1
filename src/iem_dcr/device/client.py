"""The HTTP client of one meter: a coroutine for each node. How a request is carried: `iem_dcr.device.transport`."""

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
    """Is told method, node, the seconds that a request took, and what it failed with or None."""

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
    * `RefusedError`: a status that is no success. 2xx is success; 4xx says that this request was not acted on; after
      anything else it may have been (`MeterError.may_have_acted`).
    * `NotUnderstoodError`: an answer that is not this node's; a redirect; more than 256 KiB.

    Attributes:
        address: ``host:port``.
        on_request: is told of each request that came to its end. It must not raise.
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
        """Requests begin ``pause_s`` apart, for whoever looks on beside a driver; ``connect``: see `Transport`."""
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
        """When a whole answer last came, whatever its status, on the loop's clock; None before the first."""
        return self._transport.last_response_s

    async def __aenter__(self) -> Self:
        """Nothing is held between requests."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As above."""

    # --- the nodes ---------------------------------------------------------------------------------------------------

    async def gw(self, *, timeout_s: float | None = None) -> Gateway:
        """GET /gw: charge point type and id, and the clock."""
        return await self._get("/gw", messages.gateway, timeout_s)

    async def set_gw(self, CT: str, CI: str, TM: str, *, timeout_s: float | None = None) -> None:
        """POST /gw: set charge point type and id and the clock; accepted once per power-up."""
        await self._post("/gw", {"CT": CT, "CI": CI, "TM": TM}, timeout_s)

    async def set_tariff(self, TT: str, *, timeout_s: float | None = None) -> None:
        """POST /tariff: set the tariff text, on the display and in the signed record."""
        await self._post("/tariff", {"TT": TT}, timeout_s)

    async def metervalue(self, *, timeout_s: float | None = None) -> MeterValue:
        """GET /metervalue: a live value, a picture of some moment ago."""
        return await self._get("/metervalue", messages.meter_value, timeout_s)

    async def publickey(self, *, timeout_s: float | None = None) -> PublicKey:
        """GET /publickey: the key that the meter's receipts verify with."""
        return await self._get("/publickey", messages.public_key, timeout_s)

    async def datetime(self, *, timeout_s: float | None = None) -> MeterTime | None:
        """GET /datetime: the meter's clock, or None where it cannot be read."""
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
        """GET /receipt: the signed tuple of the transaction just ended, or None where there is none.

        A refusal, 200 with nothing and null all mean that there is none.
        """
        return await self._receipt(BASE, "/receipt", timeout_s)

    async def transaction(self, *, timeout_s: float | None = None) -> Receipt | None:
        """GET /transaction: the last signed tuple, also after a restart, or None where there has never been one.

        Firmware has it under v1 or v2: the one that gave a tuple is asked first from then on. Where one of them answers
        with an error of the server's and the other has no tuple, that error is raised.
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
        """GET a node and return the answer as it is, whatever its status and whether or not it is this node's.

        Raises `RefusedError` never, and `NotUnderstoodError` only for what is no HTTP, or more than 256 KiB.
        """
        return await self._request("GET", base + node, timeout_s, lambda answer: answer)

    async def pause(self) -> None:
        """Wait until a request may go out; for whoever measures how long it takes then."""
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
        """Make one request and read its answer; the one place through which every request goes."""
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
