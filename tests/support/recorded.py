"""A folder of `iem-dcr record`, served as a meter: what was recorded is answered, and nothing else is known."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.tcp_server import TcpServer

if TYPE_CHECKING:
    import asyncio

FIRMWARE = Path(__file__).parents[1] / "fixtures" / "firmware"
_OF_THE_CONNECTION = ("connection", "content-length", "keep-alive", "transfer-encoding")


@dataclass(frozen=True)
class RecordedAnswer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def wire(self) -> bytes:
        told = [(name, value) for name, value in self.headers if name.lower() not in _OF_THE_CONNECTION]
        lines = [f"{name}: {value}\r\n" for name, value in [*told, ("Content-Length", str(len(self.body)))]]
        phrase = HTTPStatus(self.status).phrase
        return f"HTTP/1.1 {self.status} {phrase}\r\n{''.join(lines)}\r\n".encode("latin-1") + self.body


@dataclass(frozen=True)
class Recording:
    """What is in a folder.

    Attributes:
        at: when it was recorded.
        answers: by path.
        problems: why there is no answer, by path.
    """

    at: datetime
    answers: dict[str, RecordedAnswer]
    problems: dict[str, str]

    @classmethod
    def load(cls, folder: Path) -> Self:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        assert index["format"] == 1
        answers, problems = {}, {}
        for node in index["nodes"]:
            if "file" in node:
                headers = tuple((name, value) for name, value in node["headers"])
                answers[node["path"]] = RecordedAnswer(node["status"], headers, (folder / node["file"]).read_bytes())
            else:
                problems[node["path"]] = node["problem"]
        return cls(datetime.fromisoformat(index["recorded"]), answers, problems)


@dataclass
class RecordedMeter(TcpServer):
    """Serves a recording; a node that has no answer closes the connection.

    Attributes:
        requests: method and path of every request.
    """

    recording: Recording
    requests: list[str] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, _ = head.decode().split(" ", 2)
            self.requests.append(f"{method} {path}")
            answer = self.recording.answers.get(path)
            if answer is None or method != "GET":
                return
            writer.write(answer.wire())
            await writer.drain()
