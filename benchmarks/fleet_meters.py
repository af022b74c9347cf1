"""Many minimal simulated meters in one process, each on its own port.

Usage: python benchmarks/fleet_meters.py COUNT

The program prints the ports as a JSON list and answers until its standard input ends. The project's simulator is
complete, with an aiohttp server per meter, and would limit the measurement. These meters answer only the requests of a
driver without sessions: GET /gw, /metervalue, /datetime, /publickey, /transaction and /receipt, and POST /gw,
/datetime, /tariff and /user. The import register rises with time. POST /receipt is refused.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Final, cast

BASE: Final = b"/counter/v1/ocmf"
POWER_W: Final = 40_000
"""Power of every meter: 400 V and 100 A."""
REFUSED: Final = 428
PUBLIC_KEY: Final = (
    "3059301306072A8648CE3D020106082A8648CE3D030107034200"
    "046B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296"
    "4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5"
)
"""The generator of secp256r1: a point on the curve that is not a real key."""

_HEAD = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    428: b"Precondition Required",
}
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,6})\r\n", re.IGNORECASE)
_VALUE = (
    '{"MS":"%s","TM":"%s","EF":"","ST":"G","XT":false,"RD":['
    '{"RV":"%012.3f","RI":"1-b:1.8.e","RU":"kWh","RT":"DC"},'
    '{"RV":"00000000.000","RI":"1-b:2.8.e","RU":"kWh","RT":"DC"},'
    '{"WV":"00000000.000","WI":"transaction_1-b:1.8.e","WU":"kWh","WT":"DC"},'
    '{"WV":"00000000.000","WI":"transaction_1-b:2.8.e","WU":"kWh","WT":"DC"}],'
    '"U1":1.125,"U2":400.125,"U3":0,"U4":0,"I":99.969,"P":40000,"XS":"0x0000000000000001",'
    '"XC":"0x0000, 0x00000000, 0x00, 0x00"}'
)


class Meter:
    """The state of one meter.

    Attributes:
        serial: its serial number.
        gateway: CT and CI, "" until they are set. They can be set once.
    """

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self.gateway = ("", "")
        self._start_s = time.monotonic()

    def value(self) -> bytes:
        """Answer GET /metervalue."""
        import_kwh = 1000 + POWER_W * (time.monotonic() - self._start_s) / 3_600_000
        return (_VALUE % (self.serial, clock_text(), import_kwh)).encode()

    def answer(self, method: bytes, path: bytes, body: bytes) -> tuple[int, bytes]:
        """Answer a request with a status and a body."""
        node = path.removeprefix(BASE)
        if method == b"GET":
            return self._get(node)
        if method != b"POST":
            return 405, b""
        try:
            fields = json.loads(body)
        except ValueError:
            return 400, b""
        return (self._post(node, fields) if isinstance(fields, dict) else 400), b""

    def _get(self, node: bytes) -> tuple[int, bytes]:
        if node == b"/metervalue":
            return 200, self.value()
        if node == b"/gw":
            CT, CI = self.gateway
            return 200, _json({"CT": CT, "CI": CI, "TM": clock_text()})
        if node == b"/datetime":
            return 200, _json({"TM": clock_text()})
        if node == b"/publickey":
            return 200, _json({"SA": "ECDSA-secp256r1-SHA256", "PK": PUBLIC_KEY})
        if node == b"/receipt":
            return 200, b'""'
        return 404, b""

    def _post(self, node: bytes, fields: dict[str, object]) -> int:
        if node == b"/gw":
            if self.gateway != ("", ""):
                return REFUSED
            self.gateway = (str(fields.get("CT")), str(fields.get("CI")))
            return 200
        if node in (b"/datetime", b"/tariff", b"/user"):
            return 200
        return REFUSED if node == b"/receipt" else 404


class Connection(asyncio.Protocol):
    """One persistent connection to a meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._transport: asyncio.Transport | None = None
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self._pending += data
        while (head_ends := self._pending.find(b"\r\n\r\n")) >= 0:
            head = self._pending[: head_ends + 2]
            length = _LENGTH.search(head) if head.startswith(b"POST") else None
            ends = head_ends + 4 + (int(length[1]) if length else 0)
            if len(self._pending) < ends:
                return
            body, self._pending = self._pending[head_ends + 4 : ends], self._pending[ends:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        method, path, _ = head.split(b" ", 2)
        status, answer = self._meter.answer(method, path, body)
        if self._transport is not None:
            self._transport.write(_HEAD % (status, _REASONS[status], len(answer)) + answer)


def clock_text() -> str:
    """Return the time in UTC in the meter's format."""
    now_s = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now_s))},{int(now_s * 1000) % 1000:03d}+0000 S"


async def serve(count: int) -> tuple[list[asyncio.Server], list[int]]:
    """Start ``count`` meters on loopback. Return their servers and ports."""
    loop = asyncio.get_running_loop()
    servers, ports = [], []
    for number in range(count):
        meter = Meter(f"0901DEBEN{number:06d}")
        server = await loop.create_server(lambda meter=meter: Connection(meter), "127.0.0.1", 0)  # type: ignore[misc]
        servers.append(server)
        ports.append(server.sockets[0].getsockname()[1])
    return servers, ports


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def main() -> None:
    """Serve until standard input ends."""
    servers, ports = await serve(int(sys.argv[1]))
    print(json.dumps(ports), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for server in servers:
        server.close()


if __name__ == "__main__":
    asyncio.run(main())
