"""Tuples and keys read out of whatever they are handed on in, and hostile documents refused."""

from __future__ import annotations

import base64
import io
import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf import Outcome, import_formats, import_xml, parse, verify
from iem_dcr.ocmf.import_formats import LARGEST, Found, begins_with_tuple, read_document, stream_records
from tests.support.journals import tuple_text
from tests.support.shared import shared

if TYPE_CHECKING:
    from collections.abc import Callable

ONE, TWO = tuple_text(1), tuple_text(2, ID='a|b {} \\" <&> é')
SPREAD = ONE.replace('"RD":[', '"RD":\r\n\t[')
KEY = "3059aabb"
OCA = base64.b64encode(f"oca:base16:asn1:{KEY}".encode()).decode()


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def streamed(data: bytes) -> list[Found]:
    return [
        Found(text, source=f"line {line}")
        for record in stream_records(io.BytesIO(data))
        for text, line in record.tuples()
    ]


def texts(data: str | bytes) -> list[str]:
    return [found.text for found in read_document(data.encode() if isinstance(data, str) else data)]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (ONE, [ONE]),
        (f"\ufeff \r\n{ONE}\0\n", [ONE]),
        (f"{ONE}\n{TWO}\n", [ONE, TWO]),
        (f"{ONE}\r\n\r\n{TWO}", [ONE, TWO]),
        (f"{ONE}{TWO}{ONE}", [ONE, TWO, ONE]),
        (f"# mine\n12:00 got {ONE};\n{SPREAD}\nend", [ONE, SPREAD]),
        (f"{{{ONE}}}", [ONE]),
        (f'"{ONE}"', [ONE]),
        (ONE.encode().hex(), [ONE]),
        (ONE.encode().hex().upper(), [ONE]),
        (b64(f"{ONE}\n{TWO}"), [ONE, TWO]),
        (json.dumps(ONE), [ONE]),
        (json.dumps([1, None, {"a": {"b": [TWO, True, 1.5]}}]), [TWO]),
        (json.dumps({"x": 1}) + "\n" + json.dumps({"ocmf": ONE}) + "\n" + json.dumps([TWO]), [ONE, TWO]),
        (f'{{"a":{json.dumps(ONE)},"a":{json.dumps(TWO)}}}', [ONE, TWO]),
        (json.dumps(json.dumps(json.dumps({"x": ONE}))), [ONE]),
        (ONE.encode("utf-16").decode("latin-1").encode("latin-1"), [ONE]),
    ],
)
def test_texts(document: str | bytes, expected: list[str]) -> None:
    assert texts(document) == expected


def test_a_damaged_tuple_is_found_too() -> None:
    cut = ONE[:150]
    found = read_document(f"{ONE}\n{cut}\n{TWO}\nOCMF|nothing".encode())
    assert [one.text for one in found] == [ONE, cut, TWO, "OCMF|nothing"]
    assert [one.source for one in found] == ["line 1", "line 2", "line 3", "line 4"]
    with pytest.raises(ReceiptError):
        parse(found[1].text)


_MANY: dict[str, Callable[[int], str]] = {
    "text": lambda count: f"{ONE}\n" * count,
    "json": lambda count: json.dumps([ONE] * count),
    "several json": lambda count: json.dumps(ONE) * count,
    "csv": lambda count: "tuple\n" + '"a"\n' * count + "x" * 200_000,
    "xml": lambda count: "<values>" + "<value><signedData>a</signedData></value>" * count + "< is no XML",
}
"""Documents of so many tuples; that of CSV and that of XML cannot be read to its end."""


@pytest.mark.parametrize("form", _MANY)
def test_no_more_tuples_are_looked_at_than_a_document_may_hold(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_formats, "MOST", 3)
    monkeypatch.setattr(import_xml, "MOST", 3)
    with pytest.raises(ReceiptError, match="more than 3 receipts"):
        texts(_MANY[form](50))


@pytest.mark.parametrize("form", ["text", "json", "several json"])
def test_a_document_may_be_full(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_formats, "MOST", 3)
    monkeypatch.setattr(import_xml, "MOST", 3)
    assert texts(_MANY[form](3)) == [ONE] * 3


def xml(*values: str) -> bytes:
    return f'<?xml version="1.0"?>\n<values>{"".join(values)}</values>'.encode()


def value(signed: str, key: str = "", attributes: str = 'format="OCMF"', of_key: str = "") -> str:
    written = f"<publicKey {of_key}>{key}</publicKey>" if key else ""
    return f'<value transactionId="7"><signedData {attributes}>{signed}</signedData>{written}</value>'


def test_transparency_xml() -> None:
    escaped = TWO.replace("&", "&amp;").replace("<", "&lt;")
    found = read_document(
        xml(
            value(f"<![CDATA[{ONE}]]>", "aa"),
            value(f"\n{escaped}\n", " bb ", 'format="OCMF" encoding="plain"'),
            value(ONE.encode().hex(), b64("cc"), 'encoding="hex"', 'encoding="base64"'),
            value(b64(TWO), base64.b64encode(b"\x30\xfe").decode(), 'encoding="base64"', 'encoding="base64"'),
            value("AP;0;3;ALFEN", "dd", 'format="ALFEN"'),
        )
    )
    assert [(one.text, one.key) for one in found] == [
        (ONE, "aa"),
        (TWO, "bb"),
        (ONE, b64("cc")),
        (TWO, "MP4="),
        ("AP;0;3;ALFEN", "dd"),
    ]
    assert found[0].source == "value 1, transactionId 7"


def test_no_tuple_in_a_value_is_passed_over() -> None:
    escaped = TWO.replace("&", "&amp;").replace("<", "&lt;")
    both = f"{ONE}\n{TWO}".encode().hex()
    found = read_document(xml(value(ONE + escaped, "aa"), value(both, "bb", 'encoding="hex"'), value("OCMF|{", "cc")))
    assert [(one.text, one.key) for one in found] == [
        (ONE, "aa"), (TWO, "aa"), (ONE, "bb"), (TWO, "bb"), ("OCMF|{", "cc"),
    ]  # fmt: skip
    assert [one.source for one in found][:3] == ["value 1, transactionId 7"] * 2 + ["value 2, transactionId 7"]


def test_xml_in_utf_16() -> None:
    text = xml(value(ONE)).decode().replace("?>", ' encoding="UTF-16"?>')
    assert texts(text.encode("utf-16")) == [ONE]


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE values [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE values [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE values SYSTEM "http://127.0.0.1:9/values.dtd">',
        "<!DOCTYPE values>",
    ],
)
def test_no_declaration_is_read(declaration: str) -> None:
    with pytest.raises(ReceiptError, match="document type declaration"):
        read_document(f"<?xml version='1.0'?>{declaration}<values>{value('&x;')}</values>".encode())


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "no receipt in it"),
        (b"hello", "no receipt in it"),
        (b"{}", "no receipt in it"),
        (b'{"a": 1', "no receipt in it"),
        (b"<values></values>", "without any <value>"),
        (b"<values>", "not XML"),
        (b"<?xml version='1.0' encoding='nobody-9'?><values/>", "XML"),
        (b"<values>&x;</values>", "not XML"),
        (b"<a>" * 60, "nested"),
        (b"[" * 100_000, "nested"),
        (b"OCMF|\xff{}|{}", "UTF-8"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"meter,tuple\n1," + b"x" * 200_000, "CSV"),
        (b" " * (LARGEST + 1), "at most"),
    ],
)
def test_what_is_none_is_refused(document: bytes, why: str) -> None:
    with pytest.raises(ReceiptError, match=why):
        read_document(document)


def signed_value(text: str, key: str = OCA) -> dict[str, str]:
    return {"signedMeterData": b64(text), "signingMethod": "", "encodingMethod": "OCMF", "publicKey": key}


def test_ocpp_16() -> None:
    sampled = {"value": json.dumps(signed_value(ONE)), "format": "SignedData", "context": "Transaction.End"}
    plain = {"value": "451.795", "unit": "kWh"}
    values = [{"timestamp": "2026-03-01T11:30:00Z", "sampledValue": [plain, sampled]}]
    for message in (
        {"connectorId": 1, "transactionId": 7, "meterValue": values},
        [2, "19", "StopTransaction", {"transactionId": 7, "transactionData": values}],
    ):
        assert [(one.text, one.key) for one in read_document(json.dumps(message).encode())] == [(ONE, OCA)]


def test_ocpp_201_and_a_key_that_is_sent_once() -> None:
    def event(text: str, key: str) -> dict[str, object]:
        return {"meterValue": [{"sampledValue": [{"value": 451795, "signedMeterValue": signed_value(text, key)}]}]}

    found = read_document(json.dumps([event(ONE, OCA), event(TWO, "")]).encode())
    assert [(one.text, one.key) for one in found] == [(ONE, OCA), (TWO, OCA)]
    found = read_document(json.dumps([event(ONE, OCA), event(TWO, ""), event(TWO, "other")]).encode())
    assert [one.key for one in found] == [OCA, "", "other"]


def test_a_key_is_that_of_one_meter() -> None:
    other = tuple_text(3, meter="OTHER")
    found = read_document(json.dumps([signed_value(ONE), signed_value(other, ""), signed_value(TWO, "")]).encode())
    assert [(one.text, one.key) for one in found] == [(ONE, OCA), (other, ""), (TWO, OCA)]


def test_everest_signed_meter_value() -> None:
    signed = {"signed_meter_data": ONE, "signing_method": "", "encoding_method": "OCMF", "public_key": KEY}
    answer = {"signed_meter_value": signed, "status": "OK"}
    assert [(one.text, one.key) for one in read_document(json.dumps(answer).encode())] == [(ONE, KEY)]


def test_a_stream_is_read_in_records() -> None:
    data = f"\ufeff\n{ONE}\n{SPREAD}\n\n{TWO}{ONE}\n{ONE[:99]}\n{TWO}".encode()
    assert begins_with_tuple(data[:20])
    found = streamed(data)
    assert [one.text for one in found] == [ONE, SPREAD, TWO, ONE, ONE[:99], TWO]
    assert [one.source for one in found] == ["line 2", "line 3", "line 6", "line 6", "line 7", "line 8"]
    assert [one.text for one in found] == texts(data)
    (odd,) = streamed(b'OCMF|{"ID":"\xff"}|{}')
    with pytest.raises(ReceiptError):
        parse(odd.text)
    with pytest.raises(ReceiptError, match="no other tuple begins"):
        streamed(b"OCMF|" + b"x" * 17_000_000)


@pytest.mark.parametrize(
    "piece",
    [
        "OCMF|{",
        '{"a":',
        '[{"publicKey":"x","a":',
        "{\n",
        'OCMF|{"":"',
        'OCMF|{"',
        "OCMF|{[",
        "OCMF| ",
        "OCMF|{}|",
        'OCMF|{"a":[',
        '"OCMF|{":0,',
        '{"a":"',
    ],
)
def test_time_is_linear(piece: str) -> None:
    """Were it quadratic, it would take hours: the test's own time limit ends it."""
    with suppress(ReceiptError):
        assert read_document((piece * 300_000).encode())


def test_genuine() -> None:
    for name, outcome in (
        ("iem-dcr-2023-raw-signature.xml", Outcome.VALID),
        ("iem-dcr-2023-import-export-does-not-verify.xml", Outcome.INVALID),
    ):
        (found,) = read_document(shared(f"receipts/{name}").read_bytes())
        assert verify(parse(found.text), found.key).outcome is outcome
    key = json.loads(shared("device/publickey.json").read_text())["PK"]
    tuple_2025 = shared("receipts/iem-dcr-2025-unpadded-der.ocmf").read_bytes()
    assert read_document(tuple_2025) == (Found(tuple_2025.decode().strip(), source="line 1"),)
    oca = base64.b64encode(f"oca:base16:asn1:{key}".encode()).decode()
    (found,) = read_document(json.dumps(signed_value(tuple_2025.decode(), oca)).encode())
    assert verify(parse(found.text), found.key).outcome is Outcome.VALID


def test_a_key_is_the_nearest_one_around() -> None:
    near = {"publicKey": "near", "data": ONE}
    document = {"publicKey": "far", "values": [near, {"PK": "", "data": [TWO]}], "data": ONE}
    assert [one.key for one in read_document(json.dumps(document).encode())] == ["near", "far", "far"]


_PIECES = st.sampled_from(
    [ONE, TWO, "OCMF|", "{", "}", "|", '"', "\\", "[", "]", "<value>", "<signedData>", "</value>", "<!DOCTYPE a [",
     "<?xml version='1.0'?>", "&a;", "\n", ",", "tuple,public_key\n", "T0NNRn", "4F434D467C", "\ufeff", "\0", "\ud800"]
)  # fmt: skip


@given(st.binary() | st.lists(_PIECES | st.text(max_size=5)).map(lambda parts: "".join(parts).encode(errors="replace")))
def test_nothing_but_a_receipt_error(data: bytes) -> None:
    with suppress(ReceiptError):
        for found in read_document(data):
            with suppress(ReceiptError):
                parse(found.text)
    with suppress(ReceiptError):
        streamed(data)


_NO_TUPLE = st.text().filter(lambda text: "OCMF|" not in text)
_JSON = st.recursive(
    st.none() | st.integers() | _NO_TUPLE | st.just(ONE),
    lambda inner: st.lists(inner) | st.dictionaries(_NO_TUPLE, inner),
)


@given(_JSON)
def test_any_json(document: object) -> None:
    with suppress(ReceiptError):
        assert ONE in texts(json.dumps(document))
