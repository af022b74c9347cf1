"""Faults made into bytes: what goes over a connection instead of a proper answer."""

from __future__ import annotations

import socket
import struct
from http import HTTPStatus
from typing import TYPE_CHECKING

from iem_dcr.simulator.answer import TEXT_TYPE, Answer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from iem_dcr.simulator.faults import Fault

    Pause = Callable[[float], Awaitable[None]]

GARBAGE = b'{"RV": 00000012,345;;\xff\x80'
GARBAGE_HTTP = b"\x16\x03\x01IEM-DCR\r\n\r\n"

_MISSING_BYTES = 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def substitute(fault: Fault, answer: Answer | None) -> Answer | None:
    """Return the proper HTTP answer a fault gives in the place of the meter's, or None where it gives none.

    Args:
        fault: what hit the request.
        answer: the meter's, or None where it did not act.
    """
    if fault.kind in ("refuse", "server-error"):
        return Answer(fault.http_status, fault.body.encode(), TEXT_TYPE)
    if fault.kind == "garbage" and answer is not None:
        return Answer(200, GARBAGE, answer.content_type)
    return None


async def spoil(transport: asyncio.Transport, fault: Fault, answer: Answer | None, pause: Pause) -> None:
    """Write what the fault writes, then close the connection.

    Args:
        transport: the connection.
        fault: what hit the request.
        answer: the meter's, or None where it did not act.
        pause: waits so many seconds, or until the power goes.
    """
    if fault.kind == "reset":
        reset(transport)
    elif fault.kind == "stall":
        await pause(fault.wait_s)
    elif fault.kind == "garbage-http":
        transport.write(GARBAGE_HTTP)
    elif fault.kind == "wrong-length" and answer is not None:
        transport.write(http_bytes(answer, more_bytes=_MISSING_BYTES))
    elif fault.kind == "drip" and answer is not None:
        for byte in http_bytes(answer):
            if transport.is_closing():
                break
            transport.write(bytes((byte,)))
            await pause(fault.wait_s)
    transport.close()


def reset(transport: asyncio.Transport) -> None:
    """Close a connection so that the other side sees a reset, not an end."""
    if not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


def http_bytes(answer: Answer, *, more_bytes: int = 0) -> bytes:
    """Write an answer as HTTP/1.1, announcing ``more_bytes`` beyond its length."""
    head = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body) + more_bytes}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + answer.body
