"""Tuples and keys read out of whatever they are handed on in, and hostile documents refused."""

from __future__ import annotations

import io
import json
import textwrap
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf import Outcome, import_formats, import_xml, parse, verify
from iem_dcr.ocmf.import_formats import LARGEST, Found, begins_with_tuple, read_document, stream_records
from tests.support.journals import tuple_text
from tests.support.ocmf_signing import BEGIN, END, CurveSigner, b64, payload

ONE, TWO = tuple_text(1), tuple_text(2, ID='a|b {} \\" <&> é')
SPREAD = ONE.replace('"RD":[', '"RD":\r\n\t[')
SIGNER = CurveSigner()
KEY = SIGNER.spki
OCA = b64(f"oca:base16:asn1:{KEY}")
GOOD = SIGNER.tuple_of(payload(BEGIN, END))


def streamed(data: bytes) -> list[Found]:
    return [
        Found(text, source=f"line {line}")
        for record in stream_records(io.BytesIO(data))
        for text, line in record.tuples()
    ]


def texts(data: str | bytes) -> list[str]:
    return [found.text for found in read_document(data.encode() if isinstance(data, str) else data)]


def keyed(document: object) -> list[tuple[str, str]]:
    """The tuples and keys of a document of JSON."""
    return [(found.text, found.key) for found in read_document(json.dumps(document).encode())]


# --- texts ---


XML16 = f'<?xml version="1.0" encoding="UTF-16"?><values><value><signedData>{ONE}</signedData></value></values>'


@pytest.mark.parametrize(("document", "expected"), [
    (f"\ufeff \r\n{ONE}\0\n", [ONE]), (f"{ONE}\r\n\r\n{TWO}", [ONE, TWO]), (f"{ONE}{TWO}{ONE}", [ONE, TWO, ONE]),
    (f"# mine\n12:00 got {ONE};\n{SPREAD}\nend", [ONE, SPREAD]), (f"{{{ONE}}}", [ONE]), (f'"{ONE}"', [ONE]),
    (ONE.encode().hex().upper(), [ONE]), (b64(f"{ONE}\n{TWO}"), [ONE, TWO]), (json.dumps(ONE), [ONE]),
    (json.dumps([1, None, {"a": {"b": [TWO, True, 1.5]}}]), [TWO]),
    (json.dumps({"x": 1}) + "\n" + json.dumps({"ocmf": ONE}) + "\n" + json.dumps([TWO]), [ONE, TWO]),
    (f'{{"a":{json.dumps(ONE)},"a":{json.dumps(TWO)}}}', [ONE, TWO]),
    (json.dumps(json.dumps(json.dumps({"x": ONE}))), [ONE]), (ONE.encode("utf-16"), [ONE]),
    (XML16.encode("utf-16"), [ONE]),
], ids=range(15))  # fmt: skip
def test_the_tuples_of_a_text_are_found(document: str | bytes, expected: list[str]) -> None:
    assert texts(document) == expected


def test_a_damaged_tuple_is_found_too() -> None:
    cut = ONE[:150]
    found = read_document(f"{ONE}\n{cut}\n{TWO}\nOCMF|nothing".encode())
    expected = [ONE, cut, TWO, "OCMF|nothing"]
    assert found == tuple(Found(text, source=f"line {line}") for line, text in enumerate(expected, 1))
    with pytest.raises(ReceiptError):
        parse(found[1].text)


@pytest.mark.parametrize("many", [
    f"{ONE}\n" * 50, json.dumps([ONE] * 50), json.dumps(ONE) * 50, "tuple\n" + '"a"\n' * 50 + "x" * 200_000,
    "<values>" + "<value><signedData>a</signedData></value>" * 50 + "< is no XML",
], ids=["text", "json", "several json", "csv", "xml"])  # fmt: skip
def test_no_more_tuples_are_looked_at_than_a_document_may_hold(many: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (import_formats, import_xml):
        monkeypatch.setattr(module, "MOST", 3)
    with pytest.raises(ReceiptError, match="more than 3 receipts"):
        texts(many)
    assert texts(json.dumps([ONE] * 3)) == [ONE] * 3


@pytest.mark.parametrize(("document", "why"), [
    (b"", "no receipt in it"), (b"hello", "no receipt in it"), (b"{}", "no receipt in it"),
    (b'{"a": 1', "no receipt in it"), (b"<values></values>", "without any <value>"), (b"<values>", "not XML"),
    (b"<?xml version='1.0' encoding='nobody-9'?><values/>", "XML"), (b"<values>&x;</values>", "not XML"),
    (b"<a>" * 60, "nested"), (b"[" * 100_000, "nested"), (b"OCMF|\xff{}|{}", "UTF-8"), (b"\xff\xfe\x00", "UTF-8"),
    (b"meter,tuple\n1," + b"x" * 200_000, "CSV"), (b" " * (LARGEST + 1), "at most"),
], ids=lambda value: f"{value[:20]!a}…{len(value)}")  # fmt: skip
def test_what_holds_no_tuple_is_refused(document: bytes, why: str) -> None:
    with pytest.raises(ReceiptError, match=why):
        read_document(document)


def test_a_stream_is_read_in_records() -> None:
    data = f"\ufeff\n{ONE}\n{SPREAD}\n\n{TWO}{ONE}\n{ONE[:99]}\n{TWO}".encode()
    assert begins_with_tuple(data[:20])
    found = streamed(data)
    assert [one.text for one in found] == [ONE, SPREAD, TWO, ONE, ONE[:99], TWO] == texts(data)
    assert [one.source for one in found] == ["line 2", "line 3", "line 6", "line 6", "line 7", "line 8"]
    (odd,) = streamed(b'OCMF|{"ID":"\xff"}|{}')
    with pytest.raises(ReceiptError):
        parse(odd.text)
    with pytest.raises(ReceiptError, match="no other tuple begins"):
        streamed(b"OCMF|" + b"x" * 17_000_000)


@pytest.mark.parametrize(
    "piece", ["OCMF|{", '{"a":', '[{"publicKey":"x","a":', "{\n", 'OCMF|{"":"', "OCMF|{[", "OCMF|{}|", '"OCMF|{":0,']
)
def test_time_is_linear(piece: str) -> None:
    """Were it quadratic, it would take hours: the test's own time limit ends it."""
    with suppress(ReceiptError):
        assert read_document((piece * 300_000).encode())


PIECES = st.sampled_from(
    [ONE, TWO, "OCMF|", "{", "}", "|", '"', "\\", "[", "]", "<value>", "<signedData>", "</value>", "<!DOCTYPE a [",
     "<?xml version='1.0'?>", "&a;", "\n", ",", "tuple,public_key\n", "T0NNRn", "4F434D467C", "\ufeff", "\0", "\ud800"]
)  # fmt: skip


@given(st.binary() | st.lists(PIECES | st.text(max_size=5)).map(lambda parts: "".join(parts).encode(errors="replace")))
def test_nothing_is_raised_but_a_receipt_error(data: bytes) -> None:
    with suppress(ReceiptError):
        for found in read_document(data):
            with suppress(ReceiptError):
                parse(found.text)
    with suppress(ReceiptError):
        streamed(data)


# --- the transparency software's XML ---


def xml(*values: str) -> bytes:
    return f'<?xml version="1.0"?>\n<values>{"".join(values)}</values>'.encode()


def value(signed: str, key: str = "", attributes: str = 'format="OCMF"', of_key: str = "") -> str:
    written = f"<publicKey {of_key}>{key}</publicKey>" if key else ""
    return f'<value transactionId="7"><signedData {attributes}>{signed}</signedData>{written}</value>'


ESCAPED = TWO.replace("&", "&amp;").replace("<", "&lt;")


def test_every_tuple_of_a_transparency_file_is_found_in_its_encoding() -> None:
    found = read_document(xml(
        value(f"<![CDATA[{ONE}]]>", "aa"), value(f"\n{ESCAPED}\n", " bb ", 'format="OCMF" encoding="plain"'),
        value(ONE.encode().hex(), b64("cc"), 'encoding="hex"', 'encoding="base64"'),
        value(b64(TWO), b64(b"\x30\xfe"), 'encoding="base64"', 'encoding="base64"'),
        value("AP;0;3;ALFEN", "dd", 'format="ALFEN"'), value(ONE + ESCAPED, "ee"),
        value(f"{ONE}\n{TWO}".encode().hex(), "ff", 'encoding="hex"'), value("OCMF|{", "gg"),
    ))  # fmt: skip
    assert [(one.text, one.key) for one in found] == [
        (ONE, "aa"), (TWO, "bb"), (ONE, b64("cc")), (TWO, "MP4="), ("AP;0;3;ALFEN", "dd"),
        (ONE, "ee"), (TWO, "ee"), (ONE, "ff"), (TWO, "ff"), ("OCMF|{", "gg"),
    ]  # fmt: skip
    assert [one.source[6] for one in found] == list("1234566778")
    assert found[0].source == "value 1, transactionId 7"


@pytest.mark.parametrize("declaration", [
    '<!DOCTYPE values [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>',
    '<!DOCTYPE values [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE values SYSTEM "http://127.0.0.1:9/values.dtd">', "<!DOCTYPE values>",
])  # fmt: skip
def test_no_declaration_is_read(declaration: str) -> None:
    with pytest.raises(ReceiptError, match="document type declaration"):
        read_document(f"<?xml version='1.0'?>{declaration}<values>{value('&x;')}</values>".encode())


# --- what a CSMS hands over ---


def signed_value(text: str = GOOD, key: str = OCA) -> dict[str, str]:
    return {"signedMeterData": b64(text), "signingMethod": "", "encodingMethod": "OCMF", "publicKey": key}


def message(text: str = GOOD) -> list[object]:
    """A message of OCPP 1.6."""
    sampled = {"value": json.dumps(signed_value(text)), "format": "SignedData", "context": "Transaction.End"}
    values = [{"timestamp": "2026-03-01T11:30:00Z", "sampledValue": [{"value": "451.795", "unit": "kWh"}, sampled]}]
    return [2, "19", "StopTransaction", {"transactionId": 7, "transactionData": values}]


def event(text: str = GOOD, key: str = OCA) -> dict[str, object]:
    """A message of OCPP 2.0.1."""
    return {"meterValue": [{"sampledValue": [{"value": 451795, "signedMeterValue": signed_value(text, key)}]}]}


OICP = {
    "SessionID": "x",
    "CalibrationLawVerificationInfo": {"CalibrationLawCertificateID": "c", "PublicKey": KEY},
    "SignedMeteringValues": [{"SignedMeteringValue": GOOD, "MeteringStatus": "End"}],
}
OCPI = {
    "encoding_method": "OCMF", "public_key": b64(bytes.fromhex(KEY)),
    "signed_values": [{"nature": "End", "signed_data": GOOD}],
}  # fmt: skip
EVEREST = {"status": "OK", "signed_meter_value": {"signed_meter_data": GOOD, "signing_method": "", "public_key": KEY}}
GOOD_XML = xml(value(GOOD.replace("&", "&amp;"), KEY)).decode()
ENCODED = [
    GOOD, b64(GOOD), b64(GOOD + " ").rstrip("="), b64(b64(GOOD)), b64("\n" + GOOD), b64(json.dumps(GOOD)),
    GOOD.encode().hex(), "\n".join(textwrap.wrap(b64(GOOD), 76)),
]  # fmt: skip


@pytest.mark.parametrize("document", [
    message(), {"connectorId": 1, "meterValue": message()[3]}, event(), [OICP], OCPI, EVEREST,
    {"publicKey": {"encoding": "plain", "publicKey": KEY}, "data": GOOD}, {"meterPublicKey": KEY, "data": [GOOD]},
    {"meter_public_key": KEY, "receipt": {"ocmf": GOOD}}, {"receipt": GOOD_XML}, {"receipt": b64(GOOD_XML)},
    {"publicKey": KEY, "receipt": xml(value(GOOD)).decode()},
    *(signed_value() | {"signedMeterData": data} for data in ENCODED),
    json.loads('{"a":' * 400 + json.dumps(signed_value()) + "}" * 400),
    {"a": json.dumps({"b": json.dumps({"c": json.dumps(signed_value() | {"signedMeterData": b64(b64(GOOD))})})})},
], ids=range(22))  # fmt: skip
def test_every_form_is_read_with_its_key(document: object) -> None:
    [(text, key)] = keyed(document)
    assert verify(parse(text), key).outcome is Outcome.VALID


OF_OTHER = tuple_text(3, meter="OTHER")
NEAR = {"publicKey": "near", "data": ONE}


@pytest.mark.parametrize(("document", "keys"), [
    ([event(ONE), event(TWO, "")], [OCA, OCA]),
    ([event(ONE), event(TWO, ""), event(TWO, "other")], [OCA, "", "other"]),
    ([signed_value(ONE), signed_value(OF_OTHER, ""), signed_value(TWO, "")], [OCA, "", OCA]),
    ({"publicKey": "far", "values": [NEAR, {"PK": "", "data": [TWO]}], "data": ONE}, ["near", "far", "far"]),
    ({"begin": {"publicKey": KEY}, "end": {"publicKey": CurveSigner(secret=99).spki}, "data": GOOD}, [""]),
    ({"a": {"publicKey": "other", "data": OF_OTHER}, "publicKey": KEY, "data": GOOD}, ["other", KEY]),
], ids=["sent once", "two keys", "of one meter", "the nearest around", "two beside", "around another"])  # fmt: skip
def test_a_key_is_the_nearest_one_and_that_of_one_meter(document: object, keys: list[str]) -> None:
    assert [key for _, key in keyed(document)] == keys


# --- lines and logs ---


def sources(document: str, notes: list[str]) -> list[str]:
    """The places of the tuples of a document; each has its key."""
    found = read_document(document.encode(), notes)
    assert {verify(parse(one.text), one.key or KEY).outcome for one in found} == {Outcome.VALID}
    return [one.source for one in found]


LINE = json.dumps(signed_value())


@pytest.mark.parametrize(("lines", "places", "said"), [
    *([[LINE, junk, LINE, LINE], [1, 3, 4], "line 2"] for junk in ("hello", '{"signedMeterData": "T0NNRnw', "[1, 2")),
    (["{", *["x"] * 12, LINE], [14], "lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more"),
], ids=["a word", "half a text", "half a list", "many"])  # fmt: skip
def test_lines_that_are_no_json_are_noted(lines: list[str], places: list[int], said: str) -> None:
    notes: list[str] = []
    assert sources("\n".join(lines), notes) == [f"line {place}" for place in places]
    assert notes == [f"{said}: neither JSON nor a receipt; skipped"]


@pytest.mark.parametrize("before", ["2026-03-01 11:30:01,123 [INFO] CP1 -> ", "CP1 sent: ", "{1} got ", '"CP1": '])
def test_a_log_of_ocpp_messages_is_read(before: str) -> None:
    notes: list[str] = []
    sent = before + json.dumps(message())
    assert len(sources(f'log begins\n{sent}\r\n\n{before}[3,"19",{{}}]\n{sent} (sent)\n', notes)) == 2
    assert notes in ([], ["line 1: neither JSON nor a receipt; skipped"])
    with_tuples = f"12:00 OCMF got {GOOD}\n{sent}\n12:02 got {GOOD};\n"
    assert sources(with_tuples, []) == ["line 1", "line 2", "line 3"]
