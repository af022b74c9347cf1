"""What the meter answers, and how it says no."""

from __future__ import annotations

import json
from dataclasses import dataclass

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, body and the body's media type."""

    status: int
    body: bytes = b""
    content_type: str = JSON_TYPE


class RefusalError(Exception):
    """The meter does not do what it was asked; nothing has changed in it."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


def json_answer(value: object, status: int = 200) -> Answer:
    """Answer with JSON as the meter writes it: a space after each colon and comma."""
    return Answer(status, json.dumps(value, ensure_ascii=False).encode())
