"""Every JSON shape that the meter's description allows is read; what it does not: `tests.test_device_messages`."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr import ocmf
from iem_dcr.device import messages
from iem_dcr.errors import ReceiptError
from tests.support.device_api import V1, answer_schema, problems
from tests.support.from_schema import valid

if TYPE_CHECKING:
    from collections.abc import Callable

READERS: dict[str, Callable[[object], object]] = {
    "/gw": messages.gateway,
    "/metervalue": messages.meter_value,
    "/publickey": messages.public_key,
    "/datetime": messages.datetime_answer,
}
SCHEMAS = {node: answer_schema(V1 + node) for node in (*READERS, "/receipt")}
ALLOWED = {path: valid(schema) for path, schema in SCHEMAS.items()}


def written(value: object, *, ascii_only: bool = True) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")


@pytest.mark.parametrize("node", READERS)
@given(st.data())
def test_what_the_description_allows_is_read(node: str, data: st.DataObject) -> None:
    """A date that no calendar has is allowed, and is no time; a live value needs the register that is billed."""
    value = data.draw(ALLOWED[node])
    assert problems(SCHEMAS[node], value) == []
    decoded = messages.decode(written(value, ascii_only=data.draw(st.booleans())))
    imports = [row for row in value.get("RD", ()) if row.get("RI") == "1-b:1.8.e"]
    if node != "/metervalue" or len(imports) == 1:
        read: Any = READERS[node](decoded)
        assert node != "/metervalue" or (read.MS, read.XT, read.has_error is None) == (value["MS"], value["XT"], False)
    else:
        with pytest.raises(messages.ShapeError):
            READERS[node](decoded)


@given(ALLOWED["/publickey"], ALLOWED["/receipt"])
def test_a_key_of_a_known_form_is_read_and_every_wrapping_of_a_tuple_taken_off(key: Any, receipt: Any) -> None:
    with suppress(ReceiptError):  # the point is not on the curve
        assert len(ocmf.public_key_der_hex(messages.public_key(key).PK)) == 182
    text = receipt if isinstance(receipt, str) else next(iter(receipt.values()))
    found = ocmf.find_tuple(written(receipt).decode())
    if found is not None:
        assert text == "" or "OCMF|" in text
        with suppress(ReceiptError):
            assert ocmf.parse(found).text == found
