"""The REST nodes: who answers which path and method, and in which shape."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from iem_dcr.simulator import bodies
from iem_dcr.simulator.answer import TEXT_TYPE, Answer, RefusalError, json_answer
from iem_dcr.simulator.energy import kwh_text
from iem_dcr.simulator.options import TOTAL_EXPORT, TOTAL_IMPORT, TRANSACTION_EXPORT, TRANSACTION_IMPORT
from iem_dcr.simulator.signing import ALGORITHM

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from iem_dcr.simulator.record import SignedRecord
    from iem_dcr.simulator.state import MeterState

    Handler: TypeAlias = Callable[[MeterState, bytes, float], Answer]

BASE = "/counter/v1/ocmf"
NEWER_TRANSACTION = "/counter/v2/ocmf/transaction"

_DONE = Answer(200)


def node_of(path: str) -> str:
    """Return the node a path means: ``/receipt``; a path that is none of the meter's stays as it is."""
    if path == NEWER_TRANSACTION:
        return "/transaction"
    return path.removeprefix(BASE) or path


def answer(state: MeterState, method: str, path: str, body: bytes, now_s: float) -> Answer:
    """Let the node of ``path`` answer.

    Raises:
        RefusalError: 404 for an unknown path, 405 for a method the node has not, or what the node says.
    """
    transaction_path = NEWER_TRANSACTION if state.options.firmware == "v2" else BASE + "/transaction"
    node = node_of(path)
    handlers = _NODES.get(node)
    if handlers is None or path != (transaction_path if node == "/transaction" else BASE + node):
        raise RefusalError(404, "no such node")
    handler = handlers.get(method)
    if handler is None:
        raise RefusalError(405, "the node has no such method")
    return handler(state, body, now_s)


def _get_gw(state: MeterState, _body: bytes, now_s: float) -> Answer:
    gateway = state.gateway
    names = ("", "") if gateway is None else (gateway.CT, gateway.CI)
    return json_answer({"CT": names[0], "CI": names[1], "TM": state.time_text(now_s)})


def _post_gw(state: MeterState, body: bytes, now_s: float) -> Answer:
    gateway, instant = bodies.gateway(body, state.options)
    state.set_gateway(gateway)
    state.clock.set(instant, now_s)
    return _DONE


def _get_datetime(state: MeterState, _body: bytes, now_s: float) -> Answer:
    return json_answer({"TM": state.time_text(now_s)})


def _post_datetime(state: MeterState, body: bytes, now_s: float) -> Answer:
    state.clock.set(bodies.instant(body, state.options), now_s)
    return _DONE


def _post_tariff(state: MeterState, body: bytes, _now_s: float) -> Answer:
    state.tariff_text = bodies.tariff(body, state.options)
    return _DONE


def _post_user(state: MeterState, body: bytes, _now_s: float) -> Answer:
    state.set_user(bodies.user(body, state.options))
    return _DONE


def _get_publickey(state: MeterState, _body: bytes, _now_s: float) -> Answer:
    return json_answer({"SA": ALGORITHM, "PK": state.signer.public_key_text(state.options.public_key_form)})


def _get_metervalue(state: MeterState, _body: bytes, now_s: float) -> Answer:
    options = state.options
    current_a, voltage_v = state.energy.at(now_s)
    return json_answer(
        {
            "MS": options.MS,
            "TM": state.time_text(now_s),
            "EF": state.error_flags,
            "ST": options.ST,
            "XT": state.opened is not None,
            "RD": _rows(state, now_s),
            "U1": _number(options.U1, 3),
            "U2": _number(voltage_v, 3),
            "U3": 0,
            "U4": 0,
            "I": _number(current_a, 3),
            "P": _number(current_a * voltage_v, options.power_decimals),
            "XS": options.XS,
            "XC": options.XC,
        }
    )


def _rows(state: MeterState, now_s: float) -> list[dict[str, str]]:
    total, transaction = state.energy.registers(now_s), state.transaction_registers(now_s)
    rows = {
        TOTAL_IMPORT: ("R", total.import_wh),
        TOTAL_EXPORT: ("R", total.export_wh),
        TRANSACTION_IMPORT: ("W", transaction.import_wh),
        TRANSACTION_EXPORT: ("W", transaction.export_wh),
    }
    return [
        {f"{letter}V": kwh_text(energy_wh), f"{letter}I": code, f"{letter}U": "kWh", f"{letter}T": "DC"}
        for code in state.options.RD_rows
        for letter, energy_wh in (rows[code],)
    ]


def _number(value: float, decimals: int) -> float:
    rounded = round(value, decimals)
    return int(rounded) if rounded == int(rounded) else rounded


def _post_receipt(state: MeterState, body: bytes, now_s: float) -> Answer:
    if bodies.mark(body, state.options) == "B":
        state.begin(now_s)
    else:
        state.end(now_s)
    return _DONE


def _get_receipt(state: MeterState, _body: bytes, _now_s: float) -> Answer:
    kind = "previous"
    if state.opened is not None:
        kind = state.options.receipt_in_transaction
    elif state.unsigned is not None:
        kind = state.options.receipt_while_signing
    if kind == "refuse":
        raise RefusalError(428, "the receipt is not there yet")
    return json_answer("") if kind == "nothing" else _tuple(state.receipt, state.options.receipt_wrapping)


def _get_transaction(state: MeterState, _body: bytes, _now_s: float) -> Answer:
    return _tuple(state.last, state.options.receipt_wrapping)


def _tuple(record: SignedRecord | None, wrapping: str) -> Answer:
    if record is None:
        raise RefusalError(404, "no transaction was signed")
    if wrapping == "raw":
        return Answer(200, record.text.encode(), TEXT_TYPE)
    wrapped = {
        "quoted": f'"{record.text}"',
        "braced": f"{{{record.text}}}\r\n",
        "json-string": json.dumps(record.text, ensure_ascii=False),
        "object": json.dumps({"OCMF": record.text}, ensure_ascii=False),
    }
    return Answer(200, wrapped[wrapping].encode())


_NODES: dict[str, dict[str, Handler]] = {
    "/gw": {"GET": _get_gw, "POST": _post_gw},
    "/tariff": {"POST": _post_tariff},
    "/metervalue": {"GET": _get_metervalue},
    "/publickey": {"GET": _get_publickey},
    "/datetime": {"GET": _get_datetime, "POST": _post_datetime},
    "/user": {"POST": _post_user},
    "/receipt": {"GET": _get_receipt, "POST": _post_receipt},
    "/transaction": {"GET": _get_transaction},
}
