"""The way from a service to a meter, which can fail: packets between network namespaces, or bytes through a proxy.

Between namespaces each way is a pair of TUN devices, and this process carries the packets from one to the other or
not: what is lost, late, or lost in one direction only is then met by the kernel's own TCP. No netem, no netfilter and
no right beyond the namespaces' own is needed. A proxy is the nearest thing where there are no namespaces: what a lossy
network does to TCP is there made of delays.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING, Final, Protocol, Self

if TYPE_CHECKING:
    from types import TracebackType

TUN: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_PACKET_BYTES: Final = 65_536
_RESENT_AFTER_S: Final = 0.2
"""As long TCP waits at least before it sends again what was lost."""


class Way(Protocol):
    """A way to a meter.

    Attributes:
        host, port: at which the meter is reached by it.
        loss: share of what is sent that is lost.
        delay_s: how much later the answers come.
        carries_requests, carries_answers: whether anything comes through in this direction.
        holds_back: connections are made, and no request comes through.
    """

    host: str
    port: int
    loss: float
    delay_s: float
    carries_requests: bool
    carries_answers: bool
    holds_back: bool

    def set_up(self, *, is_up: bool) -> None:
        """Have the service's own network up or down."""

    def mend(self) -> None:
        """Have nothing wrong any more."""


def why_no_namespaces() -> str:
    """Return why no network namespaces can be made here, or "" where they can."""
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as error:
        return f"{TUN}: {error.strerror}"
    done = subprocess.run(unshared("true"), capture_output=True, text=True, check=False)  # noqa: S603  tools
    return f"unshare: {done.stderr.strip()}" if done.returncode else ""


def unshared(*line: str) -> list[str]:
    """Return a command that runs another one in a new network namespace; who is not root is root in there."""
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *rights, "--net", *line]


def within(pid: int, *line: str) -> list[str]:
    """Return a command that runs another one in a process's network namespace."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net", *line]


def _call(*line: str) -> None:
    done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603  tools of the system
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: {done.stderr.strip()}")


class PacketWay:
    """A way of packets into the network namespace of another process.

    Args:
        number: of it; it decides devices and addresses.
        pid: of a process in the other namespace.
        port: of the meter.
    """

    def __init__(self, number: int, pid: int, port: int) -> None:
        self.host = f"10.99.{number}.2"
        self.port = port
        self._near, self._far = f"near{number}", f"far{number}"
        self._number = number
        self._pid = pid
        self._chance = random.Random(number)
        self.mend()

    def mend(self) -> None:
        """Have nothing wrong any more."""
        self.loss = self.delay_s = 0.0
        self.carries_requests = self.carries_answers = True
        self.holds_back = False

    async def __aenter__(self) -> Self:
        """Make the devices, and carry."""
        self._near_fd, self._far_fd = _tun(self._near), _tun(self._far)
        _call("ip", "address", "add", f"10.99.{self._number}.1/30", "dev", self._near)
        _call("ip", "link", "set", self._far, "netns", str(self._pid))
        for line in (
            ("ip", "address", "add", f"{self.host}/30", "dev", self._far),
            ("ip", "link", "set", self._far, "up"),
        ):
            _call(*within(self._pid, *line))
        self.set_up(is_up=True)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._near_fd, self._carry, self._near_fd, self._far_fd)
        loop.add_reader(self._far_fd, self._carry, self._far_fd, self._near_fd)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the devices away."""
        for fd in (self._near_fd, self._far_fd):
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def set_up(self, *, is_up: bool) -> None:
        """Set the service's device up or down."""
        _call("ip", "link", "set", self._near, "up" if is_up else "down")

    def _carry(self, source: int, target: int) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            packet = os.read(source, _PACKET_BYTES)
            is_answer = source == self._far_fd
            if not (self.carries_answers if is_answer else self.carries_requests):
                return
            if self.holds_back and not is_answer and _has_data(packet):
                return
            if self._chance.random() < self.loss:
                return
            if is_answer and self.delay_s:
                asyncio.get_running_loop().call_later(self.delay_s, _write, target, packet)
            else:
                _write(target, packet)


def _tun(name: str) -> int:
    fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI))
    return fd


def _has_data(packet: bytes) -> bool:
    """Whether a packet of TCP over IPv4 brings bytes, and is not one that opens, acknowledges or ends a connection."""
    head = (packet[0] & 15) * 4
    return packet[0] >> 4 == 4 and len(packet) > head + (packet[head + 12] >> 4) * 4


def _write(fd: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # the device is down, or gone
        os.write(fd, packet)


class ProxyWay:
    """A way of bytes, through a proxy on this host.

    What TCP would send again when a fault is over waits here until then.

    Args:
        number: of it.
        port: of the meter, on 127.0.0.1.
    """

    host = "127.0.0.1"

    def __init__(self, number: int, port: int) -> None:
        self.port = 0
        self._meter_port = port
        self._chance = random.Random(number)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_up = True
        self.mend()

    def mend(self) -> None:
        """Have nothing wrong any more."""
        self.loss = self.delay_s = 0.0
        self.carries_requests = self.carries_answers = True
        self.holds_back = False

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._connect, self.host, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop every connection."""
        self._server.close()
        await self._drop()

    def set_up(self, *, is_up: bool) -> None:
        """Let connections through, or break them and refuse new ones."""
        self._is_up = is_up
        if not is_up:
            for task in self._tasks:
                task.cancel()

    async def _drop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  this is a coroutine
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far_writer: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError, asyncio.CancelledError):
            try:
                if not self._is_up:
                    return
                await self._way(is_answer=False)
                far_reader, far_writer = await asyncio.open_connection(self.host, self._meter_port)
                async with asyncio.TaskGroup() as copying:
                    copying.create_task(self._copy(reader, far_writer, is_answer=False))
                    copying.create_task(self._copy(far_reader, writer, is_answer=True))
            finally:
                writer.transport.abort()
                if far_writer is not None:
                    far_writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while some := await reader.read(_PACKET_BYTES):
                await self._way(is_answer=is_answer)
                if reader.exception() is not None:
                    break  # who resets a connection takes back what is still on its way
                writer.write(some)
                await writer.drain()
            await self._way(is_answer=is_answer)
        writer.transport.close()

    async def _way(self, *, is_answer: bool) -> None:
        """Take as long as the way takes."""
        wait_s = _RESENT_AFTER_S
        while self._chance.random() < self.loss:
            await asyncio.sleep(wait_s)
            wait_s *= 2
        if is_answer:
            await asyncio.sleep(self.delay_s)
        while not (self.carries_answers if is_answer else self.carries_requests and not self.holds_back):  # noqa: ASYNC110  plain attributes
            await asyncio.sleep(wait_s)
