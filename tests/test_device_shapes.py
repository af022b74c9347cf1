"""Every JSON shape for every node, made from the meter's description: read, or not understood, and nothing else."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iem_dcr import meter_time, ocmf
from iem_dcr.device import messages
from iem_dcr.device.client import MeterClient
from iem_dcr.errors import MeterError, NotUnderstoodError, ReceiptError, RefusedError
from iem_dcr.ocmf.tuple_text import HEADER
from tests.support.device_api import V1, answer_schema, operations, problems
from tests.support.from_schema import any_json, nearly, valid
from tests.support.raw_server import RawServer, answer
from tests.support.virtual_time import run_virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

READERS: dict[str, Callable[[object], object]] = {
    "/gw": messages.gateway,
    "/metervalue": messages.meter_value,
    "/publickey": messages.public_key,
    "/datetime": messages.datetime_answer,
}
CALLS: dict[str, Callable[[MeterClient], Any]] = {
    f"{V1}/gw": MeterClient.gw,
    f"{V1}/metervalue": MeterClient.metervalue,
    f"{V1}/publickey": MeterClient.publickey,
    f"{V1}/datetime": MeterClient.datetime,
    f"{V1}/receipt": MeterClient.receipt,
    f"{V1}/transaction": MeterClient.transaction,
    "/counter/v2/ocmf/transaction": MeterClient.transaction,
}
SCHEMAS = {path: answer_schema(path) for path in CALLS}
ALLOWED = {path: valid(schema) for path, schema in SCHEMAS.items()}
NEARLY = {path: nearly(allowed) for path, allowed in ALLOWED.items()}
MOST = 10**15
"""Beyond it nothing a meter measures is a number."""


def written(value: object, *, ascii_only: bool = True) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")


def is_time(text: str) -> bool:
    with suppress(ValueError):
        meter_time.parse(text)
        return True
    return False


def is_needed(node: str, value: Any) -> bool:
    """Whether the driver cannot do without an answer that the description allows.

    A date that no calendar has and a number out of all proportion are no values, and without the register that is
    billed there is nothing to publish.
    """
    if node == "/metervalue":
        registers = [row.get("RI") for row in value["RD"]]
        return (
            "1-b:1.8.e" in registers
            and is_time(value["TM"])
            and all(abs(value[key]) <= MOST for key in ("U2", "I", "P"))
        )
    return node != "/datetime" or is_time(value["TM"])


def test_every_answer_is_asked_for() -> None:
    assert set(CALLS) == {path for method, path, _ in operations() if method == "GET"}


@pytest.mark.parametrize("node", READERS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_what_the_description_allows_is_read(node: str, data: st.DataObject) -> None:
    value = data.draw(ALLOWED[V1 + node])
    assert problems(SCHEMAS[V1 + node], value) == []
    decoded = messages.decode(written(value, ascii_only=data.draw(st.booleans())))
    if is_needed(node, value):
        assert READERS[node](decoded) is not None
    else:
        with pytest.raises(messages.ShapeError):
            READERS[node](decoded)


@settings(max_examples=50)
@given(ALLOWED[f"{V1}/publickey"])
def test_a_key_of_a_known_form_is_a_key_or_said_to_be_none(value: Any) -> None:
    try:
        key = ocmf.public_key_der_hex(messages.public_key(value).PK)
    except ReceiptError:
        return  # the point is not on the curve
    assert len(key) == 182


@settings(max_examples=50)
@given(ALLOWED[f"{V1}/receipt"])
def test_every_wrapping_of_a_tuple_is_taken_off(value: Any) -> None:
    text = value if isinstance(value, str) else next(iter(value.values()))
    found = ocmf.find_tuple(written(value).decode())
    if found is not None:
        assert text == "" or HEADER in text
        with suppress(ReceiptError):
            assert ocmf.parse(found).text == found


@pytest.mark.parametrize("node", READERS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_what_is_nearly_allowed_is_read_or_refused_with_its_place(node: str, data: st.DataObject) -> None:
    value = data.draw(NEARLY[V1 + node])
    try:
        said = ascii(READERS[node](messages.decode(written(value))))
    except messages.ShapeError as error:
        said = str(error)
        assert len(said) < 300
    assert said.isprintable()


async def outcome(request: Awaitable[object]) -> type[MeterError] | None:
    try:
        await request
    except MeterError as error:
        said, kind = str(error), type(error)
        assert said.isprintable(), said
        assert len(said) < 400, said
        return kind
    return None


def expected(path: str, status: str) -> set[type[MeterError] | None]:
    if status.startswith("200"):
        return {None, NotUnderstoodError}
    return {RefusedError, None} if path.endswith("/transaction") else {RefusedError}


shapes = st.sampled_from(sorted(SCHEMAS)).flatmap(
    lambda path: st.tuples(
        st.just(path),
        st.sampled_from(["200 OK"] * 5 + ["428 No", "404 Not Found", "500 Oops"]),
        st.one_of(ALLOWED[path], NEARLY[path], any_json).map(written) | st.binary(max_size=60),
    )
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(shapes, min_size=1, max_size=6))
def test_the_client_reads_or_does_not_understand_and_nothing_else(told: list[tuple[str, str, bytes]]) -> None:
    async def ask() -> None:
        async with RawServer([]) as server, MeterClient("127.0.0.1", server.port) as client:
            for path, status, body in told:
                server.script[len(server.requests) :] = [answer(body, status)] * 2  # /transaction is asked for twice
                assert await outcome(CALLS[path](client)) in expected(path, status), (path, status, body)

    run_virtual(ask())
