"""Hypothesis strategies made from the schemas of the meter's REST interface: what they allow."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.support.device_api import problems, resolved

texts = st.text(st.characters(exclude_categories=()), max_size=12)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
_UNDERSTOOD = {
    "$ref", "type", "enum", "const", "pattern", "required", "properties", "additionalProperties", "minProperties",
    "maxProperties", "items", "anyOf", "allOf", "maxLength", "description", "examples", "x-known",
}  # fmt: skip


def valid(schema: Any) -> st.SearchStrategy[Any]:
    """Return what a schema allows. What a key holds beyond that is left to the schema itself (`allOf`)."""
    schema = resolved(schema)
    assert set(schema) <= _UNDERSTOOD, set(schema) - _UNDERSTOOD
    made = _alternatives(schema)
    return made.filter(lambda value: not problems(schema, value)) if "allOf" in schema else made


def _alternatives(schema: Any) -> st.SearchStrategy[Any]:
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        around = {key: value for key, value in schema.items() if key not in ("anyOf", "description")}
        return st.one_of([valid(around | resolved(one)) for one in schema["anyOf"]])
    return _of_type(schema)


def _of_type(schema: Any) -> st.SearchStrategy[Any]:
    match schema["type"]:
        case "object":
            return _object(schema)
        case "array":
            return st.lists(valid(schema["items"]), max_size=6)
        case "boolean":
            return st.booleans()
        case "number":
            return numbers
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"].removeprefix("^").removesuffix("$"), fullmatch=True)
        case "string":
            return st.text(max_size=schema.get("maxLength", 40))
    raise ValueError(f"the OpenAPI file has a type that nothing is made of here: {schema}")


def _object(schema: Any) -> st.SearchStrategy[Any]:
    fields = {key: valid(one) for key, one in schema.get("properties", {}).items()}
    required = set(schema.get("required", ()))
    known = st.fixed_dictionaries(
        {key: one for key, one in fields.items() if key in required},
        optional={key: one for key, one in fields.items() if key not in required},
    )
    more = schema.get("additionalProperties", True)
    if more is False:
        return known
    others = st.dictionaries(
        texts.filter(lambda key: key not in fields),
        json_values if more is True else valid(more),
        min_size=schema.get("minProperties", 0),
        max_size=schema.get("maxProperties", 1),
    )
    return st.builds(lambda one, other: one | other, known, others)
