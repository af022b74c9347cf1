"""The tree of errors: as it is drawn, and with messages that may go into a log."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr import errors
from iem_dcr.errors import (
    AnswerLostError,
    ConfigError,
    IemDcrError,
    MeterError,
    MeterTimeoutError,
    MeterUnreachableError,
    NotUnderstoodError,
    ReceiptError,
    RefusedError,
    RequestError,
    printable,
    shortened,
)

METER, NODE = "192.168.60.12:80", "POST /receipt"
any_text = st.text(st.characters(exclude_categories=()))

METER_ERRORS: list[tuple[MeterError, bool, str]] = [
    (MeterUnreachableError(METER, NODE, "no route"), False, "no route"),
    (MeterTimeoutError(METER, NODE, "no answer within 2.0 s"), True, "no answer within 2.0 s"),
    (AnswerLostError(METER, NODE, "connection lost"), True, "connection lost"),
    (RefusedError(METER, NODE, 428), False, "refused with status 428"),
    (RefusedError(METER, NODE, 404, "not\r\nhere"), False, "refused with status 404: not  here"),
    (RefusedError(METER, NODE, 499), False, "refused with status 499"),
    (RefusedError(METER, NODE, 500), True, "refused with status 500"),
    (RefusedError(METER, NODE, 204), True, "refused with status 204"),
    (NotUnderstoodError(METER, NODE, "RD[1-b:1.8.e].RV", "missing"), True, "at RD[1-b:1.8.e].RV: missing"),
    (NotUnderstoodError(METER, NODE, "", "not JSON"), True, "answer not understood: not JSON"),
]


def drawn() -> dict[str, str]:
    """Name and parent of every error in the drawing at the head of the module."""
    tree: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        name = line.lstrip(" │├└─").split(" ")[0]
        if not name.endswith("Error") or not line.startswith("    "):
            continue
        depth = line.index(name)
        above = [(at, parent) for at, parent in above if at < depth]
        tree[name] = above[-1][1] if above else "Exception"
        above.append((depth, name))
    return tree


def test_the_tree_is_as_drawn() -> None:
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    assert drawn() == {kind.__name__: kind.__bases__[0].__name__ for kind in classes}
    assert all(len(kind.__bases__) == 1 for kind in classes)
    assert {kind.__base__ for kind in (ConfigError, RequestError, ReceiptError, MeterError)} == {IemDcrError}


@pytest.mark.parametrize(("error", "may_have_acted", "what"), METER_ERRORS)
def test_a_meter_error_names_meter_and_node(error: MeterError, may_have_acted: bool, what: str) -> None:  # noqa: FBT001  a table's column
    assert str(error).startswith(f"meter {METER}, {NODE}: ")
    assert what in str(error)
    assert error.brief == str(error).removeprefix(f"meter {METER}, ")
    assert (error.meter, error.node) == (METER, NODE)
    assert error.may_have_acted is may_have_acted


def test_attributes() -> None:
    assert RefusedError(METER, NODE, 428).status == 428
    assert NotUnderstoodError(METER, NODE, "RD", "missing").path == "RD"
    error = ConfigError(["port_http is 0", "CI is ''"])
    assert (error.problems, str(error)) == (("port_http is 0", "CI is ''"), "port_http is 0; CI is ''")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\nc", "a [31mb c"),
        ("\u2028a\u202eb\u0085c\x00", "a b c"),
        ("\ud800x", "x"),
        ("Zähler €", "Zähler €"),
        (4711, "4711"),
        ("x" * 120, "x" * 120),
        ("x" * 121, "x" * 119 + "…"),
    ],
)
def test_printable(text: object, shown: str) -> None:
    assert printable(text) == shown


@given(any_text, st.integers(1, 200))
def test_any_text_becomes_printable(text: str, limit: int) -> None:
    shown = printable(text, limit=limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    if text.isprintable() and len(text.strip()) <= limit:
        assert shown == text.strip()
    message, short = str(RefusedError(METER, NODE, 400, text)), shortened(text)
    assert (message.isprintable(), len(message) < 250) == (True, True)
    assert (short.isprintable(), len(short.split("…")[0]) <= 2) == (True, True)


@pytest.mark.parametrize(
    ("token", "shown"), [("", "…"), ("04", "…"), ("04A", "04…(3)"), ("04AABBCCDDEEFF", "04…(14)"), ("\n\n\n", "…(3)")]
)
def test_shortened(token: str, shown: str) -> None:
    assert shortened(token) == shown
