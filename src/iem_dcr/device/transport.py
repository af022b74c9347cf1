"""HTTP/1.1 to one meter: h11 over asyncio streams, one connection for each request. The one file that imports h11.

* A connection is made for a request and closed after its answer, as the vendor's driver does. There is no stale
  keep-alive, and a meter that serves one connection at a time is not blocked by an open one.
* Head and body go out in one write, with Content-Length and without Expect.
* A connection without a complete answer is reset, not closed. Otherwise the kernel would keep sending the request for
  minutes, and an abandoned B or E would reach the meter in another transaction.
* These habits of embedded servers are tolerated: CR LF before a status line, blanks before a header's colon, bare LF,
  and no length. A body without a length ends with the connection, or at the time-out if it is a complete value.
* No request is sent twice. The caller decides what a lost answer means.

`connect` is the seam for tests: a replacement puts another network below the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import json
import os
import re
import socket
import struct
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import h11

from iem_dcr.errors import AnswerLostError, MeterTimeoutError, MeterUnreachableError, NotUnderstoodError, printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    Connect: TypeAlias = Callable[[str, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

MAX_ANSWER_BYTES: Final = 256 * 1024
"""Limit of one answer on the wire, interim answers included: a hundred times what a meter sends."""
_READ_BYTES: Final = 65_536
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: closing discards unsent data."""
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_BLANKS_BEFORE_COLON: Final = re.compile(rb"^([^\s:()<>@,;\\\"/\[\]?={}]+)[ \t]+:", re.MULTILINE)
_FRAMING: Final = (b"content-length", b"transfer-encoding")
_ADVICE: Final = "Is the meter powered, and is this its address?"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with any status.

    Attributes:
        status: HTTP status.
        headers: name and value of each header, in the order received.
        body: bytes of the body.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """Return the first header with a name, ignoring case; "" if there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


class Transport:
    """Carries the requests to one meter.

    Attributes:
        address: ``host:port``.
        timeout_s: limit of a request, including connecting and reading the body.
        last_response_s: when the last complete answer came, with any status, on the loop's clock; None before that.
    """

    def __init__(self, host: str, port: int, *, timeout_s: float, connect: Connect | None = None) -> None:
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.timeout_s = timeout_s
        self.last_response_s: float | None = None
        self._host = host
        self._port = port
        self._host_header = _host_header(host, port)
        self._connect = connect or open_connection

    async def request(self, method: str, path: str, body: bytes | None, timeout_s: float | None) -> Answer:
        """Make one request, and return its answer with any status.

        ``timeout_s`` of None means the limit of this transport. No request takes longer than that limit.

        Raises:
            MeterUnreachableError: there was no connection, so the request did not go out.
            MeterTimeoutError: no complete answer came in time.
            AnswerLostError: the connection broke before the answer was complete.
            NotUnderstoodError: the answer is not HTTP, or is larger than `MAX_ANSWER_BYTES`.
        """
        node = f"{method} {node_of(path)}"
        limit_s = self.timeout_s if timeout_s is None else max(0.0, min(timeout_s, self.timeout_s))
        exchange = _Exchange(method, path, self._host_header, body)
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(limit_s):
                try:
                    reader, writer = await self._connect(self._host, self._port)
                except (OSError, UnicodeError) as error:
                    advice = "" if isinstance(error, _ZoneError) else f". {_ADVICE}"
                    what = f"not reachable: {_description(error)}{advice}"
                    raise MeterUnreachableError(self.address, node, what) from error
                await exchange.run(reader, writer)
        except TimeoutError as error:
            if writer is None:
                what = f"no connection within {limit_s:.1f} s. {_ADVICE}"
                raise MeterUnreachableError(self.address, node, what) from error
            if not exchange.is_whole_without_end:
                raise MeterTimeoutError(self.address, node, f"no answer within {limit_s:.1f} s") from error
        except OSError as error:
            what = f"connection lost before the answer was complete: {_description(error)}"
            raise AnswerLostError(self.address, node, what) from error
        except h11.RemoteProtocolError as error:
            raise NotUnderstoodError(self.address, node, "", f"not HTTP: {printable(error)}") from error
        finally:
            if writer is not None:
                await _close(writer, in_order=exchange.is_answered)
        self.last_response_s = asyncio.get_running_loop().time()
        return exchange.answer()


def _host_header(host: str, port: int) -> bytes:
    """Return the value of the Host header: a name in ASCII, or an IPv6 address without its zone, which is local."""
    address, _, _ = host.partition("%")
    try:
        name = address if address.isascii() else address.encode("idna").decode()
    except UnicodeError:
        name = ""  # such a name cannot be resolved, so nothing will be sent
    name = f"[{name}]" if ":" in name else name
    return (name if port == 80 else f"{name}:{port}").encode()


def node_of(path: str) -> str:
    """Return the node of a path: ``/receipt``."""
    return f"/{path.rpartition('/')[2]}"


class _Exchange:
    """One request on its connection, and the part of its answer received so far."""

    def __init__(self, method: str, path: str, host: bytes, body: bytes | None) -> None:
        self.is_answered = False
        self._http = h11.Connection(h11.CLIENT)
        headers = [(b"Host", host), (b"Connection", b"close")]
        if body is not None:
            headers += [(b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body))]
        events = [h11.Request(method=method, target=path, headers=headers), h11.EndOfMessage()]
        if body:
            events.insert(1, h11.Data(data=body))
        self._request = b"".join(self._http.send(event) or b"" for event in events)
        self._head = b""
        self._response: h11.Response | None = None
        self._body = bytearray()

    def answer(self) -> Answer:
        """Return the answer, as far as it was received."""
        assert self._response is not None  # noqa: S101  only called after a head was received
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._response.headers)
        return Answer(self._response.status_code, headers, bytes(self._body))

    @property
    def is_whole_without_end(self) -> bool:
        """Whether the body has no announced end and is a complete JSON value or tuple, so that nothing is missing."""
        if self._response is None or any(name in _FRAMING for name, _ in self._response.headers):
            return False
        text = bytes(self._body).strip()
        return (text.startswith(b"OCMF|") and text.endswith(b"}")) or _is_json(text)

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the request and read its answer.

        Raises:
            OSError: the connection broke.
            h11.RemoteProtocolError: the answer is not HTTP, or is too large.
        """
        writer.write(self._request)
        await writer.drain()
        received = 0
        while not self.is_answered:
            data = await reader.read(_READ_BYTES)
            received += len(data)
            if received > MAX_ANSWER_BYTES:
                raise h11.RemoteProtocolError(f"more than {MAX_ANSWER_BYTES} bytes")
            if data:
                self._receive(data)
            else:
                self._end()

    def _receive(self, data: bytes) -> None:
        """Pass data to h11. A head is passed complete, without the deviations that h11 refuses."""
        if self._response is None:
            data = self._head + data
        while data and not self.is_answered:
            if self._response is not None:
                self._http.receive_data(data)
                data = b""
            else:
                data = data.lstrip(b"\r\n")
                if not data.startswith(b"HTTP/"[: len(data)]):
                    raise h11.RemoteProtocolError(f"it begins with {data[:20]!r}")
                end = _END_OF_HEAD.search(data)
                if end is None:
                    self._head = data
                    return
                self._http.receive_data(_BLANKS_BEFORE_COLON.sub(rb"\1:", data[: end.end()]))
                self._head, data = b"", data[end.end() :]
            self._read_events()

    def _end(self) -> None:
        """Process the end of the connection, which ends a body without an announced length."""
        if self._response is None:
            raise ConnectionResetError("the answer broke off" if self._head else "the meter closed it")
        try:
            self._http.receive_data(b"")
            self._read_events()
        except h11.RemoteProtocolError as error:
            raise ConnectionResetError("the answer broke off") from error

    def _read_events(self) -> None:
        """Process the events that h11 makes of the data."""
        while not self.is_answered:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                self._response = event
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.is_answered = True
            elif not isinstance(event, h11.InformationalResponse):
                return


async def _close(writer: asyncio.StreamWriter, *, in_order: bool) -> None:
    """Close a connection, or reset one without a complete answer."""
    if not in_order:
        with contextlib.suppress(OSError, AttributeError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
        return
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


# --- connecting ------------------------------------------------------------------------------------------------------


class _ZoneError(OSError):
    """The zone of an IPv6 address is missing, or this host has no such interface."""


async def open_connection(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a host. A numeric address needs no resolver. The addresses of a name are tried in their order.

    Raises:
        OSError: no address could be reached.
    """
    if _is_number(host):
        return await asyncio.open_connection(host, port)
    error: OSError | None = None
    for family, kind, protocol, _, address in await _addresses(host, port):
        connecting = socket.socket(family, kind, protocol)
        try:
            connecting.settimeout(0)
            await asyncio.get_running_loop().sock_connect(connecting, address)
            return await asyncio.open_connection(sock=connecting)
        except OSError as failed:
            connecting.close()
            error = failed
        except BaseException:
            connecting.close()
            raise
    raise error or OSError(f"no address of {host}")


@functools.lru_cache
def _is_number(host: str) -> bool:
    """Return whether asyncio connects to a host without a resolver. It would resolve an address with a zone."""
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return False
    if number.version == 6 and number.is_link_local and number.scope_id is None:
        raise _ZoneError(f"{host} is a link-local address, and its zone is missing: {host}%eth0")
    return "%" not in host


async def _addresses(host: str, port: int) -> list[Any]:
    """Return the addresses of a host. A name is resolved in a thread of its own."""
    with contextlib.suppress(socket.gaierror):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    _, has_zone, zone = host.partition("%")
    if has_zone:
        raise _ZoneError(f"this host has no network interface {printable(zone)}")
    return await _look_up(host, port)


_lock = threading.Lock()
_look_ups: dict[tuple[str, int], Future[list[Any]]] = {}
"""One look-up in flight per name. A resolver that hangs blocks one thread, and only the meters with that name."""


async def _look_up(host: str, port: int) -> list[Any]:
    name = host, port
    with _lock:
        look_up = _look_ups.get(name)
        if look_up is None:
            look_up = _look_ups[name] = Future()
            threading.Thread(target=_resolve, args=(name, look_up), name="look-up", daemon=True).start()
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def wake(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(done.set)

    look_up.add_done_callback(wake)
    await done.wait()
    return look_up.result()


def _resolve(name: tuple[str, int], look_up: Future[list[Any]]) -> None:
    try:
        finish = functools.partial(look_up.set_result, socket.getaddrinfo(*name, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        finish = functools.partial(look_up.set_exception, error)
    with _lock:
        del _look_ups[name]
    finish()


def _description(error: Exception) -> str:
    """Return a short description of a system error."""
    if isinstance(error, socket.gaierror):
        return f"this host cannot resolve the name ({printable(error.strerror or error.errno)})"
    if isinstance(error, UnicodeError):
        return "it is not a valid host name"
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else printable(error) or type(error).__name__


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True
