"""A meter that answers a bounded number of requests, by a seed, as nothing should; after them it behaves.

Behind it is a simulated meter, which acts on requests as a meter does, so that what a driver believes can be compared
with what happened. Tuples are never forged: no driver can tell a meter that signs what it likes from a good one.
`tests.test_device_transport` shows how a client reads odd HTTP byte by byte.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from iem_dcr.simulator import outgoing
from tests.support.raw_server import Do, Then, perform, read_request
from tests.support.tcp_server import TcpServer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from iem_dcr.simulator import SimulatedMeter

ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\nforged line %s {} \x00\u202e\ud800"
STRAY = b'{"CT":"STRAY","CI":"STRAY","TM":"2026-03-01T12:00:00,000+0100 I","SA":"STRAY","PK":"STRAY","MS":"STRAY"}'
"""The answer to a request that was not made."""
_NUMBERS = ("NaN", "-Infinity", "1e999999", "1e-999999", "9" * 100_000, "0x10", "01", "1.", '"60.1"', "true", "null")
_VALUES: tuple[object, ...] = (None, True, -1, 2**63, "", "x" * 200_000, ESCAPES, [], [[]], {}, {"OCMF": 1}, "\ufeff")
_LIES: dict[str, tuple[object, ...]] = {
    "XT": (True, False),
    "XC": ("0x0001, 0x00000000, 0x00, 0x00", "0x0000, 0x00000000, 0x00, 0x00", ESCAPES),
    "TM": ("2000-01-01T00:00:00,000+0100 U", "9999-12-31T23:59:59,999+0000", "1970-01-01T00:00:00,000-1400 R"),
    "CT": ("", "EVSEID"),
    "CI": ("", "CI-1"),
    "MS": ("1OTH000000001", "1OTH000000002"),
    "PK": ("", "00", "zz", "ab" * 64, "30" * 91),
}
"""In good form: a transaction that does not run, an error, another time, another meter."""
_TUPLES = ("/receipt", "/transaction")
_GARBLED = (b"", b"OCMF|", b"OCMF|{}|{}", b"OCMF|{" * 1000, b"\x00" * 1000, b"\xff\xfe", b'""', b"null", STRAY)


def message(body: bytes, *headers: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join((status, *headers, "", "")).encode("latin-1") + body


def proper(body: bytes) -> bytes:
    return message(body, "Content-Type: application/json", f"Content-Length: {len(body)}")


def lie(rng: random.Random, body: bytes) -> bytes:
    """Say something else than the right body."""
    try:
        fields: dict[str, Any] = json.loads(body)
    except ValueError:
        fields = {}
    key = rng.choice(sorted(fields)) if fields else "x"
    known = sorted(fields.keys() & _LIES.keys())
    rows = fields.get("RD") or [{"RV": "1"}]
    written = json.dumps(fields | {key: "@"}).encode()
    return rng.choice((
        rng.randbytes(rng.choice((0, 1, 5_000))),
        body[: rng.randrange(max(1, len(body)))],
        body + body,
        b"<html><title>Login</title></html>" + ESCAPES.encode(errors="replace"),
        b"[" * rng.choice((500, 500_000)),
        written.replace(b'"@"', rng.choice(_NUMBERS).encode()),
        written.replace(b'"@"', b'1,"%b":2' % key.encode()),
        json.dumps(fields | {key: rng.choice(_VALUES)}).encode(),
        json.dumps({name: ESCAPES if isinstance(value, str) else value for name, value in fields.items()}).encode(),
        json.dumps(fields | {"RD": rng.choice((rows * 2, rows[1:], rows[:1] * 5_000, [rows]))}).encode(),
        json.dumps({name: value for name, value in fields.items() if name != key}).encode(),
        json.dumps(fields | {name: rng.choice(_LIES[name]) for name in rng.sample(known, min(1, len(known)))}).encode(),
    ))  # fmt: skip


# --- on the wire: what is done with an answer's body ---


def damaged(rng: random.Random, body: bytes) -> Do:
    """A proper answer with some of its head, and the body's length with it, otherwise."""
    data = bytearray(proper(body)[: 500 + len(body)])
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(data), 90))
        data[at : at + rng.randint(0, 2)] = rng.choice((b"", b"\r\n", b":", b"9", b"\x00", b"\xff", b"chunked"))
    return Do(bytes(data), rng.choice((Then.KEEP, Then.CLOSE)))


def other_status(rng: random.Random, body: bytes) -> Do:
    code = rng.choice((100, 101, 202, 204, 302, 304, 400, 404, 418, 428, 500, 503, 599))
    text = rng.choice((body, b"", b"\x1b[2J\r\nforged\x00" * 20, b"%s {}" * 10, b"\xff\xfe"))
    headers = f"Location: {ESCAPES[:4]}", f"Content-Length: {len(text)}"
    return Do(message(text, *headers, status=f"HTTP/1.1 {code} \x07%s"), rng.choice((Then.KEEP, Then.CLOSE)))


def head_without_end(_rng: random.Random, _body: bytes) -> Do:
    return Do(b"HTTP/1.1 200 OK\r\n", flood=b"X-Header: something\r\n")


def body_without_end(rng: random.Random, _body: bytes) -> Do:
    return Do(message(b"{", *rng.choice(((), ("Content-Length: 99999999999",)))), flood=b" ")


def slow(_rng: random.Random, body: bytes) -> Do:
    return Do(proper(body), drip_s=0.05)


def silence(_rng: random.Random, _body: bytes) -> Do:
    return Do(then=Then.STALL)


def broken_off(rng: random.Random, body: bytes) -> Do:
    whole = proper(body)
    return Do(whole[: rng.choice((0, 10, len(whole) // 2, len(whole) - 1))], rng.choice((Then.CLOSE, Then.RESET)))


def second_answer(rng: random.Random, body: bytes) -> Do:
    """An answer that was not asked for behind the one that was, at once or a moment later."""
    stray = proper(STRAY)
    parts = proper(body) + stray * rng.choice((0, 1, 500)), stray[: rng.choice((1, 40, 10_000))]
    return Do(drip_s=0.01, parts=parts)


ABUSES: dict[str, Callable[[random.Random, bytes], Do]] = {
    abuse.__name__: abuse
    for abuse in (
        damaged, other_status, head_without_end, body_without_end, slow, silence, broken_off, second_answer,
    )
}  # fmt: skip
FLOODS = [name for name in ABUSES if name.endswith("_without_end")]
LIES = "what it says"
"""The name under which bodies that are wrong are counted."""


class HostileMeter(TcpServer):
    """Serves a simulated meter as badly as it can.

    Args:
        meter: acts on what is asked.
        seed: of everything that is left to chance.
        requests: how many are abused at most; then it behaves.
        only: names of what it may do (`LIES`, or those of `ABUSES`); None: all of it.
        share: how many of the requests are abused, 0 to 1.

    Attributes:
        done: how often it did what.
    """

    def __init__(
        self,
        meter: SimulatedMeter,
        *,
        seed: int,
        requests: int = 10**9,
        only: tuple[str, ...] | None = None,
        share: float = 1.0,
    ) -> None:
        self.meter = meter
        self.done: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._left = requests
        self._names = only or (*ABUSES, *[LIES] * 6)
        self._share = share

    @property
    def behaves(self) -> bool:
        """Whether all requests to be abused were."""
        return self._left <= 0

    def behave(self) -> None:
        """Let it behave from now on."""
        self._left = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        try:
            while await perform(self._answer(*await read_request(reader)), reader, writer):
                pass
        finally:
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()

    def _answer(self, head: bytes, body: bytes) -> Do:
        """Act on a request, or not, and return an answer."""
        method, path, _ = head.decode("latin-1").split(" ", 2)
        if self.behaves or self._rng.random() >= self._share:
            return Do(outgoing(self.meter.handle(method, path, body), None))
        self._left -= 1
        name = self._rng.choice(self._names)
        self.done[name] += 1
        # Who says to have taken the user and did not signs one person's transaction as another's: that cannot be told.
        acts = method == "GET" or path.endswith("/user") or self._rng.random() < 0.7
        said = self.meter.handle(method, path, body).body if acts else b""
        if name != LIES:
            return ABUSES[name](self._rng, said)
        if path.endswith(_TUPLES):
            signed = [record.text.encode() for record in self.meter.signed]
            return Do(proper(self._rng.choice([*_GARBLED, *signed[-3:], said[: len(said) // 2], said + said])))
        return Do(proper(lie(self._rng, said)))
