"""What may go over EVerest's wire: JSON types only, and valid under the interface's definitions.

Written for the few keywords the definitions use, so that a module under test carries no validator's weight.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_INTEGERS = range(-(2**63), 2**64)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}(Z|[+-]\d\d:\d\d)", re.ASCII)
_NO_RULE = ("description", "default")


def check(schema: Mapping[str, Any], value: object) -> str | None:
    """Say what first keeps a value from being sent, or None when it may be."""
    return next(_not_json(value, "$"), None) or next(_against(schema, value, "$"), None)


def _not_json(value: object, path: str) -> Iterator[str]:
    match value:
        case None | bool():
            return
        case list():
            for index, item in enumerate(value):
                yield from _not_json(item, f"{path}[{index}]")
        case dict():
            for key, item in value.items():
                yield from _not_json(key, path) if isinstance(key, str) else [f"{path}: the key {key!r} is no string"]
                yield from _not_json(item, f"{path}.{key}")
        case str() if encodable(value):
            return
        case int() if value in _INTEGERS:
            return
        case float() if math.isfinite(value):
            return
        case str() | int() | float():
            yield f"{path}: {value!r} cannot be written as JSON"
        case _:
            yield f"{path}: {type(value).__name__} is no JSON type"


def encodable(text: str) -> bool:
    """Whether a text can be handed to C++, which holds UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _against(schema: Mapping[str, Any], value: object, path: str) -> Iterator[str]:
    """What is wrong with a JSON value under a schema of draft 7."""
    for keyword, rule in schema.items():
        if keyword in _NO_RULE or (keyword == "format" and rule != "date-time"):
            continue
        if keyword == "properties" and isinstance(value, dict):
            for key in rule.keys() & value.keys():
                yield from _against(rule[key], value[key], f"{path}.{key}")
        elif keyword == "items" and isinstance(value, list):
            for index, item in enumerate(value):
                yield from _against(rule, item, f"{path}[{index}]")
        elif keyword == "additionalProperties" and isinstance(value, dict):
            assert rule is False
            if extra := value.keys() - schema.get("properties", {}).keys():
                yield f"{path}: {min(extra)!r} is not defined"
        elif keyword not in ("properties", "items", "additionalProperties") and not _KEYWORDS[keyword](rule, value):
            yield f"{path}: {value!r} breaks {keyword} {rule!r}"


def _is_type(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name])


def _is_date_time(text: str) -> bool:
    """RFC 3339 as EVerest's check and its consumers read it: a fraction behind ``.``, then ``Z`` or ``±hh:mm``."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return _RFC3339.fullmatch(text) is not None


def _of(kind: type, holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """A rule that speaks of one kind of value and lets every other pass."""
    return lambda rule, value: not isinstance(value, kind) or isinstance(value, bool) or holds(rule, value)


_TYPES: Mapping[str, Any] = {"boolean": bool, "number": int | float, "string": str, "array": list, "object": dict}
_KEYWORDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "type": _is_type,
    "enum": lambda rule, value: value in rule,
    "required": _of(dict, lambda rule, value: set(rule) <= value.keys()),
    "minItems": _of(list, lambda rule, value: len(value) >= rule),
    "maxItems": _of(list, lambda rule, value: len(value) <= rule),
    "minLength": _of(str, lambda rule, value: len(value) >= rule),
    "maxLength": _of(str, lambda rule, value: len(value) <= rule),
    "format": _of(str, lambda _, value: _is_date_time(value)),
}
"""A keyword that is not here fails loudly: the check would otherwise be weaker than EVerest's."""
