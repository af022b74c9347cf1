"""EVerest's interface and type definitions as JSON schemas, to hold against them what goes to a station.

In them ``$ref: /units#/Energy`` means type Energy of the file units.yaml, and stands in place of what is beside it.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import cache
from typing import Any

import yaml
from jsonschema import Draft7Validator, FormatChecker

from tests.support.shared import shared

_REFERENCE = re.compile(r"/(\w+)#/(\w+)")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}(Z|[+-]\d\d:\d\d)", re.ASCII)

_formats = FormatChecker(formats=())


@_formats.checks("date-time", raises=ValueError)
def _is_date_time(value: object) -> bool:
    """RFC 3339 as EVerest's check and its consumers read it: a fraction behind ``.``, then ``Z`` or ``±hh:mm``."""
    if not isinstance(value, str):
        return True
    datetime.fromisoformat(value)
    return _RFC3339.fullmatch(value) is not None


def of_type(reference: str) -> dict[str, Any]:
    """The schema of a type, named as the definitions name it: ``/powermeter#/Powermeter``."""
    match = _REFERENCE.fullmatch(reference)
    assert match is not None, f"{reference} is no reference to a type"
    file, name = match.groups()
    schema = _resolved(_load(f"types/{file}.yaml")["types"][name])
    assert isinstance(schema, dict)
    return schema


def of_interface(interface: str, *path: str) -> dict[str, Any]:
    """The schema of a part of an interface: ``of_interface("powermeter", "vars", "powermeter")``."""
    node = _load(f"interfaces/{interface}.yaml")
    for key in path:
        node = node[key]
    schema = _resolved(node)
    assert isinstance(schema, dict)
    return schema


def problems(schema: dict[str, Any], value: object) -> list[str]:
    """What is wrong with a value, one line each; none when it is valid."""
    Draft7Validator.check_schema(schema)
    found = Draft7Validator(schema, format_checker=_formats).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in found]


@cache
def _load(path: str) -> dict[str, Any]:
    content = yaml.safe_load(shared(f"everest/{path}").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def _resolved(node: object) -> object:
    if isinstance(node, list):
        return [_resolved(item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        return of_type(node["$ref"])
    return {key: _resolved(value) for key, value in node.items()}
