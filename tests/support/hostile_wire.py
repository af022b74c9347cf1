"""What a hostile meter does to its answers on the wire. Each abuse gets the line and the answer that would be right."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    Abuse = Callable[["Line", bytes], Awaitable[bool]]
    """Answers with a body; tells whether the connection stays."""

KIB, MIB = 1024, 1024 * 1024
FLOOD_BYTES = 6 * MIB
"""Where a flood ends of itself, should nobody close the connection: more than anyone may read."""
_BOMB = gzip.compress(bytes(64 * MIB), 1)
_FLOOD_PAUSE_S = 0.1
STRAY = b'{"CT":"STRAY","CI":"STRAY","TM":"2026-03-01T12:00:00,000+0100 I","SA":"STRAY","PK":"STRAY","MS":"STRAY"}'
"""The answer to a request that nobody made."""
_HEADERS = (
    "no colon", ": no name", "X\x00Y: z", "X: \x00\x1b[2J", " folded: x", "X y: z", "X: \xff\xfe", "X" * 9000 + ": y",
    "X: a\r\n b\r\n\tc", "X: a\rY: b", "X: a\nY: b", "\x7f: x", "Date: never", "Set-Cookie: " + "a=b; " * 1000,
    "Content-Type: \x1b[31m", "Content-Type: application/json; charset=\x00", "Content-Type: text/html; charset=utf-99",
    "Content-Disposition: attachment; filename=/etc/passwd",
)  # fmt: skip
_STATUSES = (
    "HTTP/1.1 1000 OK", "HTTP/1.1 99 OK", "HTTP/1.1 -1 OK", "HTTP/1.1 2OO OK", "HTTP/1.1 20 OK", "HTTP/1.1 999 ?",
    "HTTP/1.1 200", "HTTP/1.1", "HTTP/3.1 200 OK", "HTTP/11 200 OK", "http/1.1 200 ok", "HTTP/1.1  200 OK",
    "HTTP/1.1\t200\tOK", "ICY 200 OK", "HTTP/1.1 200 \x1b[2J", "HTTP/1.1 200 " + "\xe9" * 100,
    "HTTP/1.1 \xb2\xb2\xb2 OK",
)  # fmt: skip
_CODES = (100, 101, 102, 199, 201, 202, 204, 205, 206, 304, 400, 404, 405, 409, 413, 418, 428, 429, 500, 503, 599)
_GREETINGS = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", b"\x15\x03\x01\x00\x02\x02\x28",
    b"SSH-2.0-x\r\n", b"\x00\x01\x00\x00\x00\x06\x01\x03\x02\x01\x02\x03", b"220 mail\r\n", b"\x16\x03\x03" * 1000,
    b"\r\n" * 1000, b"\x00" * 5000,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    rng: random.Random

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes, pause_s: float) -> None:
        for index in range(len(data)):
            await self.send(data[index : index + 1])
            await asyncio.sleep(pause_s)

    async def flood(self, part: bytes, at_once: int = 64 * KIB) -> None:
        """Send the same again and again, until the other side has enough of it or there was enough of it."""
        data = part * max(1, at_once // len(part))
        for _ in range(FLOOD_BYTES // len(data)):
            await self.send(data)
            await asyncio.sleep(_FLOOD_PAUSE_S)

    async def stall(self) -> None:
        """Wait until the other side closes."""
        while await self.reader.read(KIB):
            pass

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def message(body: bytes, *headers: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join((status, *headers, "", "")).encode("latin-1") + body


def proper(body: bytes) -> bytes:
    return message(body, "Content-Type: application/json", f"Content-Length: {len(body)}")


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"


CHUNKED = "Transfer-Encoding: chunked"

# --- lengths ---


async def no_length(line: Line, body: bytes) -> bool:
    await line.send(message(body))
    return False


async def strange_length(line: Line, body: bytes) -> bool:
    n = len(body)
    lengths = (
        "-1", "-0", "+5", "", " ", "abc", "0x10", f"{n} ", f"{n}, {n}", f"{n},{n + 1}", "1e3", "9" * 30, "9" * 5000,
        str(2**31), str(2**63), str(2**64), f"{n}\x00", "\xb2", f"0{n}", "NaN", "1_0",
    )  # fmt: skip
    await line.send(message(body, f"Content-Length: {line.rng.choice(lengths)}"))
    return line.rng.random() < 0.5


async def length_too_long(line: Line, body: bytes) -> bool:
    await line.send(message(body, f"Content-Length: {len(body) + line.rng.choice((1, 100, 10**6, 10**12))}"))
    if line.rng.random() < 0.5:
        await line.stall()
    return False


async def length_too_short(line: Line, body: bytes) -> bool:
    await line.send(message(body, f"Content-Length: {line.rng.randrange(max(1, len(body)))}"))
    return True


async def two_lengths(line: Line, body: bytes) -> bool:
    n = len(body)
    second = line.rng.choice(
        (f"Content-Length: {n}", f"Content-Length: {n // 2}", CHUNKED, "Transfer-Encoding: x, chunked")
    )
    await line.send(message(line.rng.choice((body, chunked(body))), f"Content-Length: {n}", second))
    return line.rng.random() < 0.5


# --- chunks ---


async def in_chunks(line: Line, body: bytes) -> bool:
    parts = b"".join(b"%x;a=b\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(min(len(body), 3000)))
    await line.send(message(parts + b"0\r\nX: y\r\n\r\n", CHUNKED))
    return True


async def strange_chunk_size(line: Line, body: bytes) -> bool:
    sizes = (
        b"-1",
        b"+5",
        b"",
        b" ",
        b"g",
        b"0x5",
        b"f" * 16,
        b"f" * 40,
        b"F" * 5000,
        b"1e3",
        b"5 5",
        b"\xb2",
        b"00000000005",
    )
    await line.send(message(line.rng.choice(sizes) + b"\r\n" + body + b"\r\n0\r\n\r\n", CHUNKED))
    return line.rng.random() < 0.5


async def chunks_without_end(line: Line, body: bytes) -> bool:
    await line.send(message(b"%x\r\n%b\r\n" % (max(1, len(body)), body or b"x"), CHUNKED))
    await line.flood(b"1\r\n \r\n")
    return False


async def chunk_extension_without_end(line: Line, _: bytes) -> bool:
    await line.send(message(b"5;", CHUNKED))
    await line.flood(b"a=b;")
    return False


async def trailers_without_end(line: Line, body: bytes) -> bool:
    await line.send(message(b"%x\r\n%b\r\n0\r\n" % (max(1, len(body)), body or b"x"), CHUNKED))
    await line.flood(b"X-Trailer: 1\r\n")
    return False


async def no_last_chunk(line: Line, body: bytes) -> bool:
    await line.send(message(chunked(body)[:-5], CHUNKED))
    if line.rng.random() < 0.5:
        await line.stall()
    return False


# --- heads ---


async def headers_without_end(line: Line, _: bytes) -> bool:
    await line.send(b"HTTP/1.1 200 OK\r\n")
    await line.flood(b"X-Header: something\r\n")
    return False


async def header_line_without_end(line: Line, _: bytes) -> bool:
    await line.send(b"HTTP/1.1 200 OK\r\nX-Header: ")
    await line.flood(b"y" * KIB)
    return False


async def status_line_without_end(line: Line, _: bytes) -> bool:
    await line.send(b"HTTP/1.1 200 ")
    await line.flood(b"OK" * KIB)
    return False


async def head_that_stops(line: Line, body: bytes) -> bool:
    await line.send(proper(body)[: line.rng.randrange(60)])
    if line.rng.random() < 0.5:
        await line.stall()
    return False


async def strange_header(line: Line, body: bytes) -> bool:
    await line.send(message(body, line.rng.choice(_HEADERS), f"Content-Length: {len(body)}"))
    return line.rng.random() < 0.5


async def strange_status(line: Line, body: bytes) -> bool:
    await line.send(message(body, f"Content-Length: {len(body)}", status=line.rng.choice(_STATUSES)))
    return line.rng.random() < 0.5


async def other_status(line: Line, body: bytes) -> bool:
    code = line.rng.choice(_CODES)
    text = line.rng.choice((body, b"", b"\x1b[2J\r\nforged\x00" * 20, b"%s {}" * 10, b"\xff\xfe"))
    await line.send(message(text, f"Content-Length: {len(text)}", status=f"HTTP/1.1 {code} \x07%s"))
    return line.rng.random() < 0.5


async def redirect(line: Line, body: bytes) -> bool:
    targets = (
        "/counter/v1/ocmf/gw",
        "http://127.0.0.1:1/",
        "http://[::1",
        "//",
        "",
        "\x1b[2J",
        "file:///etc/passwd",
        "?",
        "x" * 8000,
    )
    status = f"HTTP/1.1 {line.rng.choice((300, 301, 302, 303, 305, 307, 308))} Moved"
    await line.send(
        message(body, f"Location: {line.rng.choice(targets)}", f"Content-Length: {len(body)}", status=status)
    )
    return True


async def interim_answers(line: Line, body: bytes) -> bool:
    interim = line.rng.choice(("100 Continue", "102 Processing", "103 Early Hints"))
    await line.send(
        message(b"", "Link: </x>", status=f"HTTP/1.1 {interim}") * line.rng.choice((1, 3, 2000)) + proper(body)
    )
    return True


async def interim_answers_without_end(line: Line, _: bytes) -> bool:
    await line.flood(message(b"", status="HTTP/1.1 100 Continue"))
    return False


# --- bodies on the wire ---


async def coded(line: Line, body: bytes) -> bool:
    coding = line.rng.choice(("gzip", "deflate", "br", "zstd", "identity", "gzip, gzip, gzip", "x-unknown", "\x00"))
    sent = line.rng.choice((body, gzip.compress(body), b"\x1f\x8b"))
    await line.send(message(sent, f"Content-Encoding: {coding}", f"Content-Length: {len(sent)}"))
    return True


async def gzip_bomb(line: Line, _: bytes) -> bool:
    how = line.rng.choice(("Content-Encoding: gzip", "Transfer-Encoding: gzip"))
    await line.send(message(_BOMB, how, f"Content-Length: {len(_BOMB)}"))
    return False


async def body_without_end(line: Line, _: bytes) -> bool:
    await line.send(message(b"{", *line.rng.choice(((), ("Content-Length: 99999999999",), ("Connection: close",)))))
    await line.flood(b" " * KIB)
    return False


# --- time and connections ---


async def slow(line: Line, body: bytes) -> bool:
    await line.drip(proper(body), line.rng.choice((0.002, 0.05, 0.5)))
    return True


async def silence(line: Line, _: bytes) -> bool:
    await line.stall()
    return False


async def closed(_: Line, __: bytes) -> bool:
    return False


async def half_closed(line: Line, body: bytes) -> bool:
    whole = proper(body)
    await line.send(whole[: line.rng.randrange(len(whole) + 1)])
    line.writer.write_eof()
    await line.stall()
    return False


async def reset(line: Line, body: bytes) -> bool:
    whole = proper(body)
    await line.send(whole[: line.rng.choice((0, 10, len(whole) // 2, len(whole) - 1))])
    if line.rng.random() < 0.5:
        await asyncio.sleep(0.01)
    line.reset()
    return False


async def kept_alive_in_words_only(line: Line, body: bytes) -> bool:
    await line.send(message(body, "Connection: keep-alive", "Keep-Alive: timeout=9999", f"Content-Length: {len(body)}"))
    if line.rng.random() < 0.5:
        line.reset()
    return False


async def closed_in_words_only(line: Line, body: bytes) -> bool:
    version, words = line.rng.choice(
        (("1.1", "close"), ("1.0", "close"), ("1.0", "keep-alive"), ("1.1", "upgrade, close, x"))
    )
    await line.send(
        message(body, f"Connection: {words}", f"Content-Length: {len(body)}", status=f"HTTP/{version} 200 OK")
    )
    return True


async def answers_nobody_asked_for(line: Line, body: bytes) -> bool:
    await line.send(proper(body) + proper(STRAY) * line.rng.choice((1, 2, 500)))
    return True


async def answer_nobody_asked_for_later(line: Line, body: bytes) -> bool:
    await line.send(proper(body))
    await asyncio.sleep(line.rng.choice((0.0, 0.01, 0.3)))
    await line.send(proper(STRAY)[: line.rng.choice((1, 40, 10_000))])
    return True


# --- no HTTP/1.1 ---


async def http_09(line: Line, body: bytes) -> bool:
    await line.send(body or b"x")
    return False


async def another_protocol(line: Line, _: bytes) -> bool:
    await line.send(line.rng.choice(_GREETINGS))
    if line.rng.random() < 0.5:
        await line.stall()
    return False


ABUSES: dict[str, Abuse] = {
    abuse.__name__: abuse
    for abuse in (
        no_length, strange_length, length_too_long, length_too_short, two_lengths, in_chunks, strange_chunk_size,
        chunks_without_end, chunk_extension_without_end, trailers_without_end, no_last_chunk, headers_without_end,
        header_line_without_end, status_line_without_end, head_that_stops, strange_header, strange_status, other_status,
        redirect, interim_answers, interim_answers_without_end, coded, gzip_bomb, body_without_end, slow, silence,
        closed, half_closed, reset, kept_alive_in_words_only, closed_in_words_only, answers_nobody_asked_for,
        answer_nobody_asked_for_later, http_09, another_protocol,
    )
}  # fmt: skip
FLOODS = {name for name in ABUSES if name.endswith("_without_end")} | {"gzip_bomb"}
