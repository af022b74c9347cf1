"""What a hostile meter says: bodies that are no JSON, JSON that is no answer, and answers that lie.

Each takes a generator of chance and the body that would be right, and returns another. Tuples are never forged here: a
meter that signs what it likes is not what a driver can tell from a good one.
"""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    Body = Callable[[random.Random, bytes], bytes]

ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\nforged line %s {} \x00\u202e\ud800"
_NUMBERS = (
    "NaN", "Infinity", "-Infinity", "1e999999", "-1e999999", "1e-999999", "1E+99999999999999999999", "9" * 100_000,
    "0." + "3" * 100_000, "0x10", "01", "+1", "1.", "--1", "1e", '"60.1"', "true", "null", "[]", "{}", "-0",
)  # fmt: skip
_STRANGE: tuple[object, ...] = (
    None, True, False, 0, -1, 2**63, 10**30, "", "x" * 200_000, ESCAPES, [], [[]], {}, {"OCMF": 1}, "0", "\ufeff",
)  # fmt: skip


def _fields(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _written(fields: object) -> bytes:
    return json.dumps(fields, ensure_ascii=True).encode()


def empty(_: random.Random, __: bytes) -> bytes:
    return b""


def noise(rng: random.Random, _: bytes) -> bytes:
    return rng.randbytes(rng.choice((1, 100, 5_000)))


def cut_off(rng: random.Random, body: bytes) -> bytes:
    return body[: rng.randrange(max(1, min(len(body), 200)))]


def said_twice(_: random.Random, body: bytes) -> bytes:
    return body + body


def byte_order_mark(_: random.Random, body: bytes) -> bytes:
    return b"\xef\xbb\xbf" + body


def other_charset(rng: random.Random, body: bytes) -> bytes:
    text = body.decode() + "\u00e9"
    return text.encode(rng.choice(("utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252", "utf-7")))


def broken_utf8(_: random.Random, body: bytes) -> bytes:
    return body.replace(b'"', b'"\xff\xc0\x80\xed\xa0\x80', 1)


def compressed(_: random.Random, body: bytes) -> bytes:
    return gzip.compress(body)


def white_space(rng: random.Random, body: bytes) -> bytes:
    return b" \t\r\n" * rng.choice((10, 200_000)) + body


def page_of_a_router(_: random.Random, __: bytes) -> bytes:
    return b"<!DOCTYPE html><html><head><script>alert(1)</script><title>Login</title></head></html>" + ESCAPES.encode(
        errors="replace"
    )


def nested(rng: random.Random, _: bytes) -> bytes:
    depth = rng.choice((500, 100_000, 500_000))
    return rng.choice((b"[" * depth, b'{"RD":' * (depth // 2), b"[" * depth + b"]" * depth))[:1_000_000]


def another_json(rng: random.Random, _: bytes) -> bytes:
    return _written(rng.choice(_STRANGE))


def another_number(rng: random.Random, body: bytes) -> bytes:
    fields = _fields(body)
    keys = [key for key, value in (fields or {}).items() if isinstance(value, int | float)]
    if fields is None or not keys:
        return rng.choice(_NUMBERS).encode()
    fields[rng.choice(keys)] = "@"
    return _written(fields).replace(b'"@"', rng.choice(_NUMBERS).encode())


def another_value(rng: random.Random, body: bytes) -> bytes:
    fields = _fields(body)
    if not fields:
        return another_json(rng, body)
    for key in rng.sample(sorted(fields), rng.randint(1, min(3, len(fields)))):
        fields[key] = rng.choice(_STRANGE)
    return _written(fields)


def another_row(rng: random.Random, body: bytes) -> bytes:
    fields = _fields(body)
    rows = fields.get("RD") if fields else None
    if fields is None or not isinstance(rows, list) or not rows:
        return another_value(rng, body)
    row = rng.choice(rows)
    row[rng.choice(sorted(row))] = rng.choice(
        (*_STRANGE, "-00000001.000", "00000000.000", "99999999.999", "1e9", "NaN")
    )
    fields["RD"] = rng.choice((rows, rows * 2, rows[1:], [row] * 5_000, [rows], list(reversed(rows))))
    return _written(fields)


def escapes_everywhere(_: random.Random, body: bytes) -> bytes:
    fields = _fields(body)
    return _written({key: ESCAPES if isinstance(value, str) else value for key, value in (fields or {"": ""}).items()})


def without_a_key(rng: random.Random, body: bytes) -> bytes:
    fields = _fields(body) or {"x": 1}
    del fields[rng.choice(sorted(fields))]
    return _written(fields)


def keys_twice(rng: random.Random, body: bytes) -> bytes:
    fields = _fields(body) or {"x": 1}
    more = ",".join(f"{json.dumps(key)}:{json.dumps(rng.choice(_STRANGE))}" for key in rng.sample(sorted(fields), 1))
    return body.rstrip()[:-1] + b"," + more.encode() + b"}"


def many_keys(_: random.Random, body: bytes) -> bytes:
    more = ",".join(f'"{number}":{number}' for number in range(50_000))
    return body.rstrip()[:-1] + b"," + more.encode() + b"}"


def another_meter(rng: random.Random, body: bytes) -> bytes:
    fields = _fields(body) or {}
    return _written(fields | {"MS": f"1OTH{rng.randrange(10**9):09}", "CI": f"CI-{rng.randrange(100)}"})


def another_state(rng: random.Random, body: bytes) -> bytes:
    """Lie in good form: a transaction that does not run, an error, another time, a charge point that is none."""
    lies: dict[str, tuple[object, ...]] = {
        "XT": (True, False),
        "XC": ("0x0001, 0x00000000, 0x00, 0x00", "0x0000, 0x00000000, 0x00, 0x00", ESCAPES),
        "TM": ("2000-01-01T00:00:00,000+0100 U", "9999-12-31T23:59:59,999+0000", "1970-01-01T00:00:00,000-1400 R"),
        "CT": ("", "EVSEID"),
        "PK": ("", "00", "zz", "ab" * 64, "30" * 91),
    }
    fields = _fields(body) or {}
    return _written(fields | {key: rng.choice(values) for key, values in lies.items() if key in fields})


BODIES: tuple[Body, ...] = (
    empty, noise, cut_off, said_twice, byte_order_mark, other_charset, broken_utf8, compressed, white_space,
    page_of_a_router, nested, another_json, another_number, another_value, another_row, escapes_everywhere,
    without_a_key, keys_twice, many_keys, another_meter, another_state,
)  # fmt: skip
