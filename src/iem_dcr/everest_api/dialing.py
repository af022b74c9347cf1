"""A connected socket to a broker, TLS included, made on the event loop: it can be broken off at any moment.

An MQTT library's own way of connecting blocks a thread, which nobody can end, until every address and the resolver
have given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from iem_dcr.errors import IemDcrError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    _Address = tuple[socket.AddressFamily, tuple[Any, ...]]
    _Found: TypeAlias = "list[_Address] | BrokerTroubleError"
    _Tell = Callable[[_Found], None]

ADDRESS_S: Final = 4.0
"""How long one address of a host may take to accept a connection."""
UNACKNOWLEDGED_S: Final = 10.0
"""How long sent bytes may stay unacknowledged by the broker's host before the kernel gives the connection up."""
SEND_BUFFER_BYTES: Final = 128 * 1024
"""What the kernel may hold for a broker that does not read; values grow old in there."""

_TLS_HINT = "Is that port one for TLS, and is a client certificate (cert_file, key_file) wanted?"
_READ_BYTES = 64 * 1024
_HOSTNAME_MISMATCH = (62, 63, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH, _EMAIL_MISMATCH and _IP_ADDRESS_MISMATCH."""


class BrokerTroubleError(IemDcrError):
    """There is no connection to the broker; the message is the reason, in words that follow the broker's address.

    Attributes:
        lasting: whether nothing but a change of settings, here or at the broker, will help.
    """

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        self.lasting = lasting
        super().__init__(reason)


async def dial(host: str, port: int, tls: ssl.SSLContext | None) -> socket.socket:
    """Connect to the first address of a host that accepts.

    Args:
        host: address or host name; with TLS the broker's certificate has to be for it.
        port: TCP port.
        tls: what TLS is done with, or None.

    Returns:
        A non-blocking socket that sends at once, an `ssl.SSLSocket` after its handshake with TLS.

    Raises:
        BrokerTroubleError: it did not come about.
    """
    last: Exception = BrokerTroubleError("the host has no address")
    for family, address in await _addresses(host, port):
        try:
            async with asyncio.timeout(ADDRESS_S):
                return await _connect(family, address, host, tls)
        except TimeoutError:
            last = BrokerTroubleError(f"does not answer within {ADDRESS_S:g} s")
        except OSError as error:
            last = trouble(error, is_tls=tls is not None)
    raise last


def trouble(error: OSError, *, is_tls: bool) -> BrokerTroubleError:
    """Say in plain words what an error of a socket or of TLS means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _HOSTNAME_MISMATCH:
            return BrokerTroubleError(
                "its TLS certificate is for another name: use the name that the certificate is for as the host",
                lasting=True,
            )
        why = printable(error.verify_message)
        return BrokerTroubleError(
            f"its TLS certificate is not trusted ({why}): see ca_file and the clock", lasting=True
        )
    if isinstance(error, ssl.SSLError):
        return BrokerTroubleError(f"TLS failed ({printable(error.reason or error)}). {_TLS_HINT}")
    if isinstance(error, ConnectionRefusedError):
        return BrokerTroubleError("nothing listens there")
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return BrokerTroubleError(f"it broke the connection off. {_TLS_HINT if is_tls else ''}".rstrip())
    return BrokerTroubleError(printable(error.strerror or error))


async def _addresses(host: str, port: int) -> list[_Address]:
    with contextlib.suppress(socket.gaierror):
        return _look_up(host, port, socket.AI_NUMERICHOST)  # an address: nothing to be looked up
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[_Address]] = loop.create_future()

    def settle(found: _Found) -> None:
        if answer.done():
            return
        if isinstance(found, BrokerTroubleError):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def tell(found: _Found) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closed by then
            loop.call_soon_threadsafe(settle, found)

    asked = _LookUp.asked(host, port, tell)
    try:
        return await answer
    finally:
        asked.leave(tell)


class _LookUp(threading.Thread):
    """A look-up of a host, one for each host and port at a time, however often it is asked for meanwhile.

    Nobody waits for the thread: a resolver may take minutes, and the loop's own threads are joined at its end.
    """

    _lock = threading.Lock()
    _at_work: Final[dict[tuple[str, int], _LookUp]] = {}

    def __init__(self, host: str, port: int) -> None:
        super().__init__(name="iem-dcr-resolver", daemon=True)
        self._of = host, port
        self._listeners: list[_Tell] = []

    @classmethod
    def asked(cls, host: str, port: int, tell: _Tell) -> _LookUp:
        """Have somebody told of what is found, in the thread; by the look-up that is at work, or a new one."""
        with cls._lock:
            at_work = cls._at_work.get((host, port))
            if at_work is None:
                at_work = cls(host, port)
                at_work.start()
                cls._at_work[host, port] = at_work
            at_work._listeners.append(tell)
            return at_work

    def leave(self, tell: _Tell) -> None:
        """Have somebody told no more."""
        with self._lock:
            self._listeners.remove(tell)

    def run(self) -> None:
        found: _Found = BrokerTroubleError("the host could not be looked up")
        try:
            found = _look_up(*self._of)
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "no name of a host"
            found = BrokerTroubleError(f"the host is not known ({printable(why or error)})")
        finally:
            with self._lock:
                del self._at_work[self._of]
                told = tuple(self._listeners)
            for tell in told:
                tell(found)


def _look_up(host: str, port: int, flags: int = 0) -> list[_Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


async def _connect(
    family: socket.AddressFamily, address: tuple[Any, ...], host: str, tls: ssl.SSLContext | None
) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.settimeout(0)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNACKNOWLEDGED_S * 1000))
        await asyncio.get_running_loop().sock_connect(made, address)
        if tls is not None:
            made = tls.wrap_socket(made, server_hostname=host, do_handshake_on_connect=False)
            await _shake_hands(made)
    except BaseException:
        made.close()
        raise
    return made


async def _shake_hands(made: ssl.SSLSocket) -> None:
    while True:
        try:
            made.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(made, for_writing=False)
        except ssl.SSLWantWriteError:
            await _ready(made, for_writing=True)
        else:
            return


async def _ready(made: socket.socket, *, for_writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    watch, leave = (loop.add_writer, loop.remove_writer) if for_writing else (loop.add_reader, loop.remove_reader)
    watch(made, settle)
    try:
        await ready
    finally:
        leave(made)


class ReadAhead:
    """A connected socket of which much is read at once, and given out in the small pieces that a caller asks for.

    Args:
        made: a non-blocking socket; it is closed with this.
    """

    def __init__(self, made: socket.socket) -> None:
        self._made = made
        self._bytes = b""
        self._at = 0

    @property
    def is_ahead(self) -> bool:
        """Whether there are bytes that no event of the socket will tell of."""
        return self._at < len(self._bytes) or (isinstance(self._made, ssl.SSLSocket) and self._made.pending() > 0)

    def recv(self, size: int, /) -> bytes:
        """Return at most that many bytes, b"" at the end; raises what the socket raises."""
        if self._at >= len(self._bytes):
            self._bytes = self._made.recv(_READ_BYTES)
            self._at = 0
        part = self._bytes[self._at : self._at + size]
        self._at += len(part)
        return part

    def send(self, some: bytes | bytearray, /) -> int:
        """Send what the kernel takes."""
        return self._made.send(some)

    def fileno(self) -> int:
        """Return the file descriptor, -1 once it is closed."""
        return self._made.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._made.close()

    def setblocking(self, flag: bool, /) -> None:  # noqa: FBT001  as a socket has it
        """Leave the socket as it is, non-blocking."""
