"""Bodies of POST requests: read as strictly as they are known to be, refused with 400 where they are not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.simulator import clock
from iem_dcr.simulator.signing import Gateway, User
from iem_dcr.simulator.state import RefusalError

if TYPE_CHECKING:
    from datetime import datetime

    from iem_dcr.simulator.options import SimulatorOptions

_TYPE_NAMES: Final[dict[type, str]] = {str: "a string", bool: "true or false", list: "a list of strings"}
_GATEWAY: Final[dict[str, type]] = {"CT": str, "CI": str, "TM": str}
_USER: Final[dict[str, type]] = {"IS": bool, "IL": str, "IF": list, "IT": str, "ID": str, "US": bool}
_USER_WITH_TARIFF: Final = _USER | {"TT": str}


def gateway(body: bytes, options: SimulatorOptions) -> tuple[Gateway, datetime]:
    """Read ``{"CT","CI","TM"}``."""
    values = _fields(body, _GATEWAY, options)
    return Gateway(values["CT"], values["CI"]), _instant(values["TM"])


def instant(body: bytes, options: SimulatorOptions) -> datetime:
    """Read ``{"TM"}``."""
    return _instant(_fields(body, {"TM": str}, options)["TM"])


def tariff(body: bytes, options: SimulatorOptions) -> str:
    """Read ``{"TT"}``."""
    return _tariff_text(_fields(body, {"TT": str}, options)["TT"], options)


def user(body: bytes, options: SimulatorOptions) -> User:
    """Read ``{"IS","IL","IF","IT","ID","US"[,"TT"]}``."""
    values = _fields(body, _USER, options, optional=_USER_WITH_TARIFF)
    if len(values["ID"]) > options.user_id_limit:
        raise RefusalError(f"ID has more than {options.user_id_limit} characters", 400)
    if "TT" in values:
        _tariff_text(values["TT"], options)
    return User(**(values | {"IF": tuple(values["IF"])}))


def mark(body: bytes, options: SimulatorOptions) -> str:
    """Read ``{"TX":"B"}`` or ``{"TX":"E"}``."""
    code = _fields(body, {"TX": str}, options)["TX"]
    if code not in ("B", "E"):
        raise RefusalError("TX is neither B nor E", 400)
    return str(code)


def _fields(
    body: bytes, wanted: dict[str, type], options: SimulatorOptions, *, optional: dict[str, type] | None = None
) -> dict[str, Any]:
    try:
        values = json.loads(body)
        # a lone surrogate, which JSON can spell, has no UTF-8 to be signed
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RefusalError("the body is not JSON", 400) from error
    if not isinstance(values, dict):
        raise RefusalError("the body is not an object", 400)
    if optional is not None and values.keys() - wanted.keys():
        wanted = optional
    if values.keys() != wanted.keys():
        raise RefusalError(f"the keys are not {', '.join(wanted)}", 400)
    if options.strict_key_order and list(values) != list(wanted):
        raise RefusalError(f"the keys are not in the order {', '.join(wanted)}", 400)
    for key, kind in wanted.items():
        items = values[key] if isinstance(values[key], list) else ()
        if type(values[key]) is not kind or any(not isinstance(item, str) for item in items):
            raise RefusalError(f"{key} is not {_TYPE_NAMES[kind]}", 400)
    return values


def _tariff_text(text: str, options: SimulatorOptions) -> str:
    if len(text) > options.tariff_text_limit:
        raise RefusalError(f"TT has more than {options.tariff_text_limit} characters", 400)
    return text


def _instant(text: str) -> datetime:
    try:
        return clock.parse_sent(text)
    except ValueError as error:
        raise RefusalError(str(error), 400) from error
