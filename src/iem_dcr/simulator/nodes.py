"""The REST nodes: which path and method is answered, what a body has to be, and the shape of the answer.

A body is read as strictly as it is known to be sent; what it lacks is refused with 400 and changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.simulator.clock import parse_sent
from iem_dcr.simulator.signing import ALGORITHM, Gateway, User
from iem_dcr.simulator.state import RefusalError

if TYPE_CHECKING:
    from datetime import datetime

    from iem_dcr.simulator.options import SimulatorOptions
    from iem_dcr.simulator.signing import SignedRecord
    from iem_dcr.simulator.state import MeterState

BASE: Final = "/counter/v1/ocmf"
NEWER_TRANSACTION: Final = "/counter/v2/ocmf/transaction"
JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain"
METHODS: Final = {
    "/gw": ("GET", "POST"),
    "/tariff": ("POST",),
    "/metervalue": ("GET",),
    "/publickey": ("GET",),
    "/datetime": ("GET", "POST"),
    "/user": ("POST",),
    "/receipt": ("GET", "POST"),
    "/transaction": ("GET",),
}
"""The methods that each node has."""

_TYPE_NAMES: Final[dict[type, str]] = {str: "a string", bool: "true or false", list: "a list of strings"}
_USER: Final[dict[str, type]] = {"IS": bool, "IL": str, "IF": list, "IT": str, "ID": str, "US": bool}


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
    return "/transaction" if path == NEWER_TRANSACTION else path.removeprefix(BASE) or path


def answer(state: MeterState, method: str, path: str, body: bytes, now_s: float) -> Answer:
    """Let the node of ``path`` act and answer; a refusal is an answer too."""
    node = node_of(path)
    is_newer = node == "/transaction" and state.options.firmware == "v2"
    try:
        if node not in METHODS or path != (NEWER_TRANSACTION if is_newer else BASE + node):
            raise RefusalError("no such node", 404)
        if method not in METHODS[node]:
            raise RefusalError("the node has no such method", 405)
        if method == "GET":
            return _get(state, node, now_s)
        _post(state, node, body, now_s)
    except RefusalError as refusal:
        return Answer(refusal.status or state.options.refusal_status, str(refusal).encode(), TEXT_TYPE)
    return Answer(state.options.post_status)


def _get(state: MeterState, node: str, now_s: float) -> Answer:
    options, text = state.options, state.time_text(now_s)
    time = {} if text is None else {"TM": text}
    match node:
        case "/gw":
            return json_answer((state.gateway or Gateway())._asdict() | time)
        case "/datetime":
            return json_answer(time)
        case "/metervalue":
            return json_answer(state.live.answer(now_s))
        case "/publickey":
            return json_answer({"SA": ALGORITHM, "PK": state.signer.public_key_text(options.public_key_form)})
        case "/transaction":
            return _tuple(state.last_signed(now_s), "previous", options)
    kind = "previous"
    if state.opened is not None:
        kind = options.receipt_in_transaction
    elif state.unsigned:
        kind = options.receipt_while_signing
    return _tuple(state.receipt, kind, options)


def _tuple(record: SignedRecord | None, kind: str, options: SimulatorOptions) -> Answer:
    """Answer with a record, or as ``kind`` has it that there is none."""
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
            values = _fields(body, {"CT": str, "CI": str, "TM": str}, state.options)
            instant = _instant(values["TM"])
            state.set_gateway(Gateway(values["CT"], values["CI"]))
            state.clock.set(instant, now_s)
        case "/datetime":
            state.clock.set(_instant(_fields(body, {"TM": str}, state.options)["TM"]), now_s)
        case "/tariff":
            state.tariff_text = _fields(body, {"TT": str}, state.options)["TT"]
        case "/user":
            values = _fields(body, _USER, state.options)
            state.set_user(User(**(values | {"IF": tuple(values["IF"])})))
        case "/receipt":
            code = _fields(body, {"TX": str}, state.options)["TX"]
            if code not in ("B", "E"):
                raise RefusalError("TX is neither B nor E", 400)
            (state.begin if code == "B" else state.end)(now_s)


def _fields(body: bytes, wanted: dict[str, type], options: SimulatorOptions) -> dict[str, Any]:
    try:
        values = json.loads(body)
        # a lone surrogate, which JSON can spell, has no UTF-8 to be signed
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RefusalError("the body is not JSON", 400) from error
    if not isinstance(values, dict):
        raise RefusalError("the body is not an object", 400)
    if wanted is _USER and "TT" in values:
        wanted = _USER | {"TT": str}
    if values.keys() != wanted.keys() or (options.strict_key_order and list(values) != list(wanted)):
        order = " in this order" if options.strict_key_order else ""
        raise RefusalError(f"the keys are not {', '.join(wanted)}{order}", 400)
    for key, kind in wanted.items():
        items = values[key] if isinstance(values[key], list) else ()
        if type(values[key]) is not kind or any(not isinstance(item, str) for item in items):
            raise RefusalError(f"{key} is not {_TYPE_NAMES[kind]}", 400)
    for key, limit in (("ID", options.user_id_limit), ("TT", options.tariff_text_limit)):
        if len(values.get(key, "")) > limit:
            raise RefusalError(f"{key} has more than {limit} characters", 400)
    return values


def _instant(text: str) -> datetime:
    try:
        return parse_sent(text)
    except ValueError as error:
        raise RefusalError(str(error), 400) from error
