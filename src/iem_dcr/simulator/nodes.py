"""The REST nodes: valid paths and methods, the required form of a body, and the form of each answer.

A body must have exactly the form that the vendor's driver sends. Any other is refused with 400 and changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.simulator.clock import parse_sent
from iem_dcr.simulator.signing import ALGORITHM, NO_GATEWAY, public_key_text
from iem_dcr.simulator.state import RefusalError

if TYPE_CHECKING:
    from iem_dcr.simulator.options import SimulatorOptions
    from iem_dcr.simulator.signing import SignedRecord
    from iem_dcr.simulator.state import MeterState

BASE: Final = "/counter/v1/ocmf"
NEWER_TRANSACTION: Final = "/counter/v2/ocmf/transaction"
JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain"
METHODS: Final = {
    "/gw": ("GET", "POST"), "/tariff": ("POST",), "/metervalue": ("GET",), "/publickey": ("GET",),
    "/datetime": ("GET", "POST"), "/user": ("POST",), "/receipt": ("GET", "POST"), "/transaction": ("GET",),
}  # fmt: skip
"""The methods that each node has."""
_TYPES: Final[dict[str, type[Any]]] = {"IS": bool, "US": bool, "IF": list}
"""Types of the keys in the body of a POST that are not text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, body and media type of the body."""

    status: int
    body: bytes = b""
    content_type: str = JSON_TYPE


def json_answer(value: object, status: int = 200) -> Answer:
    """Return a JSON answer in the meter's format, with a space after each colon and comma."""
    return Answer(status, json.dumps(value, ensure_ascii=False).encode())


def node_of(path: str) -> str:
    """Return the node of a path, such as ``/receipt``. A path outside the meter's API is returned unchanged."""
    return "/transaction" if path == NEWER_TRANSACTION else path.removeprefix(BASE) or path


def answer(state: MeterState, method: str, path: str, body: bytes, now_s: float) -> Answer:
    """Handle a request to the node of ``path``. A refusal is an answer too."""
    try:
        node = _node(state.options, method, path)
        if method == "GET":
            return _get(state, node, now_s)
        _post(state, node, body, now_s)
    except RefusalError as refusal:
        return Answer(refusal.status or state.options.refusal_status, str(refusal).encode(), TEXT_TYPE)
    return Answer(state.options.post_status)


def _node(options: SimulatorOptions, method: str, path: str) -> str:
    node = node_of(path)
    is_newer = node == "/transaction" and options.firmware == "v2"
    if node not in METHODS or path != (NEWER_TRANSACTION if is_newer else BASE + node):
        raise RefusalError("no such node", 404)
    if method not in METHODS[node]:
        raise RefusalError("the node has no such method", 405)
    return node


def _get(state: MeterState, node: str, now_s: float) -> Answer:
    options, text = state.options, state.time_text(now_s)
    time = {} if text is None else {"TM": text}
    match node:
        case "/gw":
            return json_answer({**(state.gateway or NO_GATEWAY), **time})
        case "/datetime":
            return json_answer(time)
        case "/metervalue":
            return json_answer(state.live.answer(now_s))
        case "/publickey":
            return json_answer({"SA": ALGORITHM, "PK": public_key_text(state.key, options.public_key_form)})
        case "/transaction":
            return _tuple(state.last_signed(now_s), "previous", options)
    kind = "previous"
    if state.opened is not None:
        kind = options.receipt_in_transaction
    elif state.unsigned:
        kind = options.receipt_while_signing
    return _tuple(state.receipt, kind, options)


def _tuple(record: SignedRecord | None, kind: str, options: SimulatorOptions) -> Answer:
    """Return an answer with the record, or the answer that ``kind`` names for a missing one."""
    if kind == "previous" and record is not None:
        wrapped = {
            "raw": record.text,
            "quoted": f'"{record.text}"',
            "braced": f"{{{record.text}}}\r\n",
            "json-string": json.dumps(record.text, ensure_ascii=False),
            "object": json.dumps({"OCMF": record.text}, ensure_ascii=False),
        }[options.receipt_wrapping]
        return Answer(200, wrapped.encode(), TEXT_TYPE if options.receipt_wrapping == "raw" else JSON_TYPE)
    kind = options.receipt_never_signed if kind == "previous" else kind
    if kind in ("refuse", "not-found"):
        raise RefusalError("there is no receipt", 404 if kind == "not-found" else None)
    return Answer(200, {"nothing": b"", "null": b"null", "empty": b'""'}[kind])


def _post(state: MeterState, node: str, body: bytes, now_s: float) -> None:
    match node:
        case "/gw":
            values = _fields(body, state.options, "CT", "CI", "TM")
            instant = values.pop("TM")
            state.set_gateway(values)
            state.clock.set(instant, now_s)
        case "/datetime":
            state.clock.set(_fields(body, state.options, "TM")["TM"], now_s)
        case "/tariff":
            state.tariff_text = _fields(body, state.options, "TT")["TT"]
        case "/user":
            state.set_user(_fields(body, state.options, "IS", "IL", "IF", "IT", "ID", "US", optional="TT"))
        case "/receipt":
            code = _fields(body, state.options, "TX")["TX"]
            (state.begin if code == "B" else state.end)(now_s)


def _fields(body: bytes, options: SimulatorOptions, *wanted: str, optional: str = "") -> dict[str, Any]:
    try:
        values = json.loads(body)
        # JSON can contain a lone surrogate, which UTF-8 cannot encode and which therefore cannot be signed
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RefusalError("the body is not JSON", 400) from error
    if not isinstance(values, dict):
        raise RefusalError("the body is not an object", 400)
    keys = [*wanted, optional] if optional in values else [*wanted]
    if values.keys() != set(keys) or (options.strict_key_order and list(values) != keys):
        raise RefusalError(f"the keys are not {', '.join(keys)}, in this order", 400)
    return {key: _value(key, values[key], options) for key in keys}


def _value(key: str, value: Any, options: SimulatorOptions) -> Any:  # noqa: ANN401  JSON, and a moment for TM
    kind = _TYPES.get(key, str)
    if not isinstance(value, kind) or (kind is list and any(not isinstance(item, str) for item in value)):
        raise RefusalError(f"{key} is not of type {kind.__name__}", 400)
    limit = {"ID": options.user_id_limit, "TT": options.tariff_text_limit}.get(key)
    if limit is not None and len(value) > limit:
        raise RefusalError(f"{key} has more than {limit} characters", 400)
    if key == "TX" and value not in ("B", "E"):
        raise RefusalError("TX is neither B nor E", 400)
    try:
        return parse_sent(value) if key == "TM" else value
    except ValueError as error:
        raise RefusalError(str(error), 400) from error
