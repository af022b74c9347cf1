"""The description of the meter's REST interface (`docs/device-api.openapi.yaml`), to hold answers against."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

if TYPE_CHECKING:
    from collections.abc import Iterator

V1 = "/counter/v1/ocmf"
FILE = Path(__file__).parents[2] / "docs" / "device-api.openapi.yaml"
API: Any = yaml.safe_load(FILE.read_text("utf-8"))
_URI = "urn:iem-dcr:api"
_REGISTRY: Any = Registry().with_resource(_URI, Resource.from_contents(API, default_specification=DRAFT202012))


def resolved(value: Any) -> Any:
    """Follow a reference within the file. What stands beside it is kept."""
    while "$ref" in value:
        at = API
        for name in value["$ref"].removeprefix("#/").split("/"):
            at = at[name]
        value = at | {key: one for key, one in value.items() if key != "$ref"}
    return value


def operations() -> Iterator[tuple[str, str, Any]]:
    """Yield method, path and description of every operation."""
    for path, methods in API["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def problems(schema: Any, value: object) -> list[str]:
    """Hold a value against a schema of the file, which may refer to others in it."""
    validator = Draft202012Validator(_absolute(schema), registry=_REGISTRY)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def answer_schema(path: str, status: str = "200", kind: str = "application/json") -> Any:
    """Return the schema of a GET's answer."""
    return resolved(API["paths"][path]["get"]["responses"][status])["content"][kind]["schema"]


def request_schema(path: str) -> Any:
    """Return the schema of a POST's body."""
    return API["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def _absolute(schema: Any) -> Any:
    """Write references so that they lead into the file from anywhere."""
    if isinstance(schema, dict):
        return {key: _URI + one if key == "$ref" else _absolute(one) for key, one in schema.items()}
    return [_absolute(one) for one in schema] if isinstance(schema, list) else schema
