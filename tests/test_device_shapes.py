"""Every JSON shape for every node, made from the meter's description: read, or not understood, and nothing else."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr import ocmf
from iem_dcr.device import messages
from iem_dcr.device.client import MeterClient
from iem_dcr.errors import MeterError, NotUnderstoodError, ReceiptError, RefusedError
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
RECEIPTS = ("/receipt", "/transaction")
SCHEMAS = {path: answer_schema(path) for path in CALLS}
ALLOWED = {path: valid(schema) for path, schema in SCHEMAS.items()}
NEARLY = {path: nearly(allowed) for path, allowed in ALLOWED.items()}


def written(value: object, *, ascii_only: bool = True) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")


def test_every_answer_is_asked_for() -> None:
    assert set(CALLS) == {path for method, path, _ in operations() if method == "GET"}


@pytest.mark.parametrize("node", READERS)
@given(st.data())
def test_what_the_description_allows_is_read(node: str, data: st.DataObject) -> None:
    """A date that no calendar has is allowed, and is no time; a live value needs the register that is billed."""
    value = data.draw(ALLOWED[V1 + node])
    assert problems(SCHEMAS[V1 + node], value) == []
    decoded = messages.decode(written(value, ascii_only=data.draw(st.booleans())))
    imports = [row for row in value.get("RD", ()) if row.get("RI") == "1-b:1.8.e"]
    if node != "/metervalue" or len(imports) == 1:
        read: Any = READERS[node](decoded)
        assert node != "/metervalue" or (read.MS, read.XT, read.has_error is None) == (value["MS"], value["XT"], False)
    else:
        with pytest.raises(messages.ShapeError):
            READERS[node](decoded)


@given(ALLOWED[f"{V1}/publickey"])
def test_a_key_of_a_known_form_is_a_key_or_said_to_be_none(value: Any) -> None:
    with suppress(ReceiptError):  # the point is not on the curve
        assert len(ocmf.public_key_der_hex(messages.public_key(value).PK)) == 182


@given(ALLOWED[f"{V1}/receipt"])
def test_every_wrapping_of_a_tuple_is_taken_off(value: Any) -> None:
    text = value if isinstance(value, str) else next(iter(value.values()))
    found = ocmf.find_tuple(written(value).decode())
    if found is not None:
        assert text == "" or "OCMF|" in text
        with suppress(ReceiptError):
            assert ocmf.parse(found).text == found


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
    return {None} if path.endswith(RECEIPTS) and status.startswith("4") else {RefusedError}


shapes = st.sampled_from(sorted(SCHEMAS)).flatmap(
    lambda path: st.tuples(
        st.just(path),
        st.sampled_from(["200 OK"] * 5 + ["428 No", "404 Not Found", "500 Oops"]),
        st.one_of(ALLOWED[path], NEARLY[path], any_json).map(written) | st.binary(max_size=60),
    )
)


@given(st.lists(shapes, min_size=1, max_size=6))
def test_the_client_reads_or_does_not_understand_and_nothing_else(told: list[tuple[str, str, bytes]]) -> None:
    async def ask() -> None:
        async with RawServer([]) as server:
            client = MeterClient("127.0.0.1", server.port)
            for path, status, body in told:
                server.script[len(server.requests) :] = [answer(body, status)] * 2  # /transaction is asked for twice
                assert await outcome(CALLS[path](client)) in expected(path, status), (path, status, body)

    run_virtual(ask())
