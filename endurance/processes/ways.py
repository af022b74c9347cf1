"""Network paths from a service to its meter that can fail: packets between namespaces, or bytes through a proxy.

Between namespaces a path is a pair of TUN devices. This process copies the packets from one to the other, or drops or
delays them, so that the kernel's TCP sees real losses and delays, also in one direction only. This needs neither netem
nor netfilter, and no rights outside the namespace. Without namespaces a proxy imitates the delays that TCP would have.
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
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Self

TUN: Final = "/dev/net/tun"
TUNSETIFF: Final = 0x400454CA
IFF_TUN_NO_PI: Final = 0x1001
MAX_READ_BYTES: Final = 65_536
RESENT_AFTER_S: Final = 0.2
"""TCP's minimum time before a retransmission. It doubles with each further one."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A temporary fault of a network path.

    Attributes:
        name: name of the fault.
        lasts_s: its duration.
        loss: share of lost packets.
        delay_s: delay of answers.
        carries_requests: whether anything passes from the service to the meter.
        carries_answers: whether anything passes from the meter to the service.
        holds_back: connections open, but requests do not pass.
        is_up: whether the service's own network is up.
        cuts_power: the meter loses power meanwhile, and with it the state of its connections.
    """

    name: str = ""
    lasts_s: float = 12.0
    loss: float = 0.0
    delay_s: float = 0.0
    carries_requests: bool = True
    carries_answers: bool = True
    holds_back: bool = False
    is_up: bool = True
    cuts_power: bool = False


class Way(ABC):
    """A network path to a meter. A service reaches the meter at ``host`` and ``port``."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.port = 0
        self.trouble = Trouble()
        self._chance = random.Random(host)

    def set_trouble(self, trouble: Trouble) -> None:
        """Replace the present trouble by this one. `Trouble()` means none."""
        if trouble.is_up != self.trouble.is_up:
            self._set_up(is_up=trouble.is_up)
        self.trouble = trouble

    @abstractmethod
    def _set_up(self, *, is_up: bool) -> None:
        """Set the service's own network up or down."""

    def _loses(self) -> bool:
        return self._chance.random() < self.trouble.loss

    def _carries(self, *, is_answer: bool, has_data: bool = True) -> bool:
        if is_answer:
            return self.trouble.carries_answers
        return self.trouble.carries_requests and not (self.trouble.holds_back and has_data)


class PacketWay(Way):
    """A path for packets from another network namespace into this one.

    Args:
        number: determines its devices and addresses.
        pid: id of a process in the other namespace, in which the service runs.

    Attributes:
        host: an address in this namespace, for the meter.
    """

    def __init__(self, number: int, pid: int) -> None:
        super().__init__(f"10.99.{number}.1")
        self._number = number
        self._pid = pid
        self._near, self._far = f"near{number}", f"far{number}"

    async def __aenter__(self) -> Self:
        self._near_fd, self._far_fd = _tun(self._near), _tun(self._far)
        _call("ip", "address", "add", f"{self.host}/30", "dev", self._near)
        _call("ip", "link", "set", self._near, "up")
        _call("ip", "link", "set", self._far, "netns", str(self._pid))
        _call(*within(self._pid, "ip", "address", "add", f"10.99.{self._number}.2/30", "dev", self._far))
        self._set_up(is_up=True)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._near_fd, self._carry, self._near_fd, self._far_fd)
        loop.add_reader(self._far_fd, self._carry, self._far_fd, self._near_fd)
        return self

    async def __aexit__(self, *_: object) -> None:
        for fd in (self._near_fd, self._far_fd):
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def _set_up(self, *, is_up: bool) -> None:
        _call(*within(self._pid, "ip", "link", "set", self._far, "up" if is_up else "down"))

    def _carry(self, source: int, target: int) -> None:
        with contextlib.suppress(OSError):
            packet = os.read(source, MAX_READ_BYTES)
            is_answer = source == self._near_fd
            if self._loses() or not self._carries(is_answer=is_answer, has_data=_has_data(packet)):
                return
            if is_answer and self.trouble.delay_s:
                asyncio.get_running_loop().call_later(self.trouble.delay_s, _write, target, packet)
            else:
                _write(target, packet)


def _tun(name: str) -> int:
    fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
    return fd


def _has_data(packet: bytes) -> bool:
    """Return whether a TCP packet over IPv4 has data, and does not only open, acknowledge or end a connection."""
    head_bytes = (packet[0] & 15) * 4
    return packet[0] >> 4 == 4 and len(packet) > head_bytes + (packet[head_bytes + 12] >> 4) * 4


def _write(fd: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # the device is down or removed
        os.write(fd, packet)


def _call(*line: str) -> None:
    done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603  tools of the system
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: {done.stderr.strip()}")


def unshared(*line: str) -> list[str]:
    """Return a command that runs another one in a new network namespace, as root inside it."""
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *rights, "--net", *line]


def within(pid: int, *line: str) -> list[str]:
    """Return a command that runs another one in the network namespace of a process."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net", *line]


def why_no_namespaces() -> str:
    """Return why network namespaces are unavailable here, or ""."""
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as error:
        return f"{TUN}: {error.strerror}"
    done = subprocess.run(unshared("true"), capture_output=True, text=True, check=False)  # noqa: S603  tools
    return f"unshare: {done.stderr.strip()}" if done.returncode else ""


class ProxyWay(Way):
    """A path for bytes through a proxy on this host. It delays what TCP would retransmit after a trouble."""

    def __init__(self, meter_port: int) -> None:
        super().__init__("127.0.0.1")
        self._meter_port = meter_port
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._set_up(is_up=False)
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _set_up(self, *, is_up: bool) -> None:
        """Break every connection when the network goes down. `_serve` then refuses new ones."""
        if not is_up:
            for task in self._connections:
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  this is a coroutine
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.ExitStack() as stack:
            stack.callback(writer.transport.abort)
            if self.trouble.is_up:
                await self._pass(is_answer=False)
                meter_reader, meter_writer = await asyncio.open_connection(self.host, self._meter_port)
                stack.callback(meter_writer.transport.abort)
                async with asyncio.TaskGroup() as copying:
                    copying.create_task(self._copy(reader, meter_writer, is_answer=False))
                    copying.create_task(self._copy(meter_reader, writer, is_answer=True))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while some := await reader.read(MAX_READ_BYTES):
                await self._pass(is_answer=is_answer)
                if reader.exception() is not None:
                    break  # a reset discards the data that is still in transit
                writer.write(some)
                await writer.drain()
            await self._pass(is_answer=is_answer)
        writer.transport.close()

    async def _pass(self, *, is_answer: bool) -> None:
        """Wait as long as the network would delay the data."""
        wait_s = RESENT_AFTER_S
        while self._loses():
            await asyncio.sleep(wait_s)
            wait_s *= 2
        await asyncio.sleep(self.trouble.delay_s if is_answer else 0.0)
        while not self._carries(is_answer=is_answer):  # noqa: ASYNC110  a plain attribute decides
            await asyncio.sleep(wait_s)
