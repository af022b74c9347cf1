"""A network path from a service in another network namespace to a meter in this one, and faults of that path.

A path is a pair of TUN devices. This process copies the packets from one to the other, or drops or delays them, so that
the kernel's TCP sees real losses and delays, also in one direction only. This needs neither netem nor netfilter, and no
rights outside the namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import shutil
import socket
import struct
import subprocess
from dataclasses import dataclass
from typing import Final, Self

TUN: Final = "/dev/net/tun"
TUNSETIFF: Final = 0x400454CA
IFF_TUN_NO_PI: Final = 0x1001
MAX_PACKET_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class NetworkFault:
    """A temporary fault of a network path. Without arguments there is none.

    Attributes:
        lasts_s: its duration.
        delay_s: delay of answers.
        carries_requests: whether anything passes from the service to the meter.
        carries_data: whether requests pass. Connections open in any case.
        carries_answers: whether anything passes from the meter to the service.
        is_up: whether the service's own network is up.
        cuts_power: the meter loses power meanwhile, and with it the state of its connections.
    """

    name: str = ""
    lasts_s: float = 12.0
    loss: float = 0.0
    delay_s: float = 0.0
    carries_requests: bool = True
    carries_data: bool = True
    carries_answers: bool = True
    is_up: bool = True
    cuts_power: bool = False

    def carries(self, packet: bytes, *, is_answer: bool) -> bool:
        if is_answer:
            return self.carries_answers
        return self.carries_requests and (self.carries_data or not _has_data(packet))


class NetworkPath:
    """A path for packets from another network namespace into this one.

    Args:
        number: determines its devices and addresses.
        pid: id of a process in the other namespace, in which the service runs.
    """

    def __init__(self, number: int, pid: int) -> None:
        self.host = f"10.99.{number}.1"
        self._number = number
        self._pid = pid
        self._near, self._far = f"near{number}", f"far{number}"
        self._fault = NetworkFault()
        self._chance = random.Random(self.host)

    async def __aenter__(self) -> Self:
        self._near_fd, self._far_fd = _tun(self._near), _tun(self._far)
        _call("ip", "address", "add", f"{self.host}/30", "dev", self._near)
        _call("ip", "link", "set", self._near, "up")
        _call("ip", "link", "set", self._far, "netns", str(self._pid))
        _call(*within(self._pid, "ip", "address", "add", f"10.99.{self._number}.2/30", "dev", self._far))
        self._switch(is_up=True)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._near_fd, self._carry, self._near_fd, self._far_fd)
        loop.add_reader(self._far_fd, self._carry, self._far_fd, self._near_fd)
        return self

    async def __aexit__(self, *_: object) -> None:
        for fd in (self._near_fd, self._far_fd):
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def set_fault(self, fault: NetworkFault) -> None:
        """Replace the present fault by this one."""
        if fault.is_up != self._fault.is_up:
            self._switch(is_up=fault.is_up)
        self._fault = fault

    def _switch(self, *, is_up: bool) -> None:
        """Set the service's own network up or down."""
        _call(*within(self._pid, "ip", "link", "set", self._far, "up" if is_up else "down"))

    def _carry(self, source: int, target: int) -> None:
        with contextlib.suppress(OSError):
            packet = os.read(source, MAX_PACKET_BYTES)
            is_answer = source == self._near_fd
            if self._chance.random() < self._fault.loss or not self._fault.carries(packet, is_answer=is_answer):
                return
            if is_answer and self._fault.delay_s:
                asyncio.get_running_loop().call_later(self._fault.delay_s, _write, target, packet)
            else:
                _write(target, packet)


def _tun(name: str) -> int:
    fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
    return fd


def _has_data(packet: bytes) -> bool:
    """Return whether a packet is TCP over IPv4 and does more than open, acknowledge or end a connection."""
    head_bytes = (packet[0] & 15) * 4 if packet else 0
    if len(packet) < head_bytes + 20 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
        return False
    return len(packet) > head_bytes + (packet[head_bytes + 12] >> 4) * 4


def _write(fd: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # the device is down or removed
        os.write(fd, packet)


def _call(*line: str) -> None:
    done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603  tools of the system
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: {done.stderr.strip()}")


def unshared(*line: str) -> list[str]:
    """Return a command that runs another one in a new network namespace with loopback, as root inside it."""
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *rights, "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *line]


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
