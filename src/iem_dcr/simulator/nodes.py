"""The REST nodes: which path and method is answered, and in which shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from iem_dcr.simulator import bodies
from iem_dcr.simulator.signing import ALGORITHM
from iem_dcr.simulator.state import RefusalError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from iem_dcr.simulator.live_values import LiveValues
    from iem_dcr.simulator.signing import SignedRecord
    from iem_dcr.simulator.state import MeterState

    Handler: TypeAlias = Callable[["Nodes", bytes, float], "Answer"]

BASE: Final = "/counter/v1/ocmf"
NEWER_TRANSACTION: Final = "/counter/v2/ocmf/transaction"
JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, body and the body's media type."""

    status: int
    body: bytes = b""
    content_type: str = JSON_TYPE


def json_answer(value: object, status: int = 200) -> Answer:
    """Answer with JSON as the meter writes it: a space after each colon and comma."""
    return Answer(status, json.dumps(value, ensure_ascii=False).encode())


def node_of(path: str) -> str:
    """Return the node a path means: ``/receipt``; a path that is none of the meter's stays as it is."""
    if path == NEWER_TRANSACTION:
        return "/transaction"
    return path.removeprefix(BASE) or path


class Nodes:
    """The nodes of one meter.

    Attributes:
        METHODS: the methods that each node has.
    """

    def __init__(self, state: MeterState, values: LiveValues) -> None:
        self._state = state
        self._values = values

    def answer(self, method: str, path: str, body: bytes, now_s: float) -> Answer:
        """Let the node of ``path`` answer; a refusal is an answer too."""
        try:
            return self._handler(method, path)(self, body, now_s)
        except RefusalError as refusal:
            status = self._state.options.refusal_status if refusal.status is None else refusal.status
            return Answer(status, refusal.reason.encode(), TEXT_TYPE)

    def _handler(self, method: str, path: str) -> Handler:
        transaction_path = NEWER_TRANSACTION if self._state.options.firmware == "v2" else BASE + "/transaction"
        node = node_of(path)
        handlers = self.METHODS.get(node)
        if handlers is None or path != (transaction_path if node == "/transaction" else BASE + node):
            raise RefusalError("no such node", 404)
        if method not in handlers:
            raise RefusalError("the node has no such method", 405)
        return handlers[method]

    def _time(self, now_s: float) -> dict[str, object]:
        text = self._state.time_text(now_s)
        return {} if text is None else {"TM": text}

    def _done(self) -> Answer:
        return Answer(self._state.options.post_status)

    def _get_gw(self, _body: bytes, now_s: float) -> Answer:
        gateway = self._state.gateway
        names = ("", "") if gateway is None else (gateway.CT, gateway.CI)
        return json_answer({"CT": names[0], "CI": names[1], **self._time(now_s)})

    def _post_gw(self, body: bytes, now_s: float) -> Answer:
        gateway, instant = bodies.gateway(body, self._state.options)
        self._state.set_gateway(gateway)
        self._state.clock.set(instant, now_s)
        return self._done()

    def _get_datetime(self, _body: bytes, now_s: float) -> Answer:
        return json_answer(self._time(now_s))

    def _post_datetime(self, body: bytes, now_s: float) -> Answer:
        self._state.clock.set(bodies.instant(body, self._state.options), now_s)
        return self._done()

    def _post_tariff(self, body: bytes, _now_s: float) -> Answer:
        self._state.tariff_text = bodies.tariff(body, self._state.options)
        return self._done()

    def _post_user(self, body: bytes, _now_s: float) -> Answer:
        self._state.set_user(bodies.user(body, self._state.options))
        return self._done()

    def _get_publickey(self, _body: bytes, _now_s: float) -> Answer:
        return json_answer(
            {"SA": ALGORITHM, "PK": self._state.signer.public_key_text(self._state.options.public_key_form)}
        )

    def _get_metervalue(self, _body: bytes, now_s: float) -> Answer:
        return json_answer(self._values.answer(self._state, now_s))

    def _post_receipt(self, body: bytes, now_s: float) -> Answer:
        if bodies.mark(body, self._state.options) == "B":
            self._state.begin(now_s)
        else:
            self._state.end(now_s)
        return self._done()

    def _get_receipt(self, _body: bytes, _now_s: float) -> Answer:
        kind = "previous"
        if self._state.opened is not None:
            kind = self._state.options.receipt_in_transaction
        elif self._state.unsigned:
            kind = self._state.options.receipt_while_signing
        if kind == "previous":
            return self._tuple(self._state.receipt)
        return _no_receipt(kind, "the receipt is not there yet")

    def _get_transaction(self, _body: bytes, now_s: float) -> Answer:
        return self._tuple(self._state.last_signed(now_s))

    def _tuple(self, record: SignedRecord | None) -> Answer:
        options = self._state.options
        if record is None:
            return _no_receipt(options.receipt_never_signed, "no transaction was signed")
        if options.receipt_wrapping == "raw":
            return Answer(200, record.text.encode(), TEXT_TYPE)
        wrapped = {
            "quoted": f'"{record.text}"',
            "braced": f"{{{record.text}}}\r\n",
            "json-string": json.dumps(record.text, ensure_ascii=False),
            "object": json.dumps({"OCMF": record.text}, ensure_ascii=False),
        }
        return Answer(200, wrapped[options.receipt_wrapping].encode())

    METHODS: ClassVar[dict[str, dict[str, Handler]]] = {
        "/gw": {"GET": _get_gw, "POST": _post_gw},
        "/tariff": {"POST": _post_tariff},
        "/metervalue": {"GET": _get_metervalue},
        "/publickey": {"GET": _get_publickey},
        "/datetime": {"GET": _get_datetime, "POST": _post_datetime},
        "/user": {"POST": _post_user},
        "/receipt": {"GET": _get_receipt, "POST": _post_receipt},
        "/transaction": {"GET": _get_transaction},
    }


def _no_receipt(kind: str, reason: str) -> Answer:
    if kind in ("refuse", "not-found"):
        raise RefusalError(reason, 404 if kind == "not-found" else None)
    return Answer(200, {"nothing": b"", "null": b"null", "empty": b'""'}[kind])
