"""Receipts handed on in every form: byte for byte, read back and verified, and what is not byte for byte said."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import io
import json
import xml.etree.ElementTree as ET  # what is read here was written here

import ecdsa  # type: ignore[import-untyped]  # it comes without types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.ocmf import Outcome, Receipt, parse, verify
from iem_dcr.ocmf.examination import examine
from iem_dcr.ocmf.export import LONGEST_OCPP_201, Format, Item, export, reencoded, signed_meter_value
from iem_dcr.ocmf.import_formats import read_document
from iem_dcr.ocmf.keys import CURVES, SECP256R1, Curve
from iem_dcr.ocmf.signature import Form, form_of, signature_numbers
from tests.support.journals import tuple_text
from tests.support.ocmf_signing import CurveSigner, b64, in_form
from tests.support.shared import shared

SIGNER = CurveSigner(SECP256R1)
KEY = SIGNER.spki


def payload(number: int, **fields: str) -> str:
    return tuple_text(number, **fields).split("|")[1]


def signed(number: int, **fields: str) -> Item:
    return Item(parse(SIGNER.tuple_of(payload(number, **fields))), KEY, f"T-{number}")


def raw(number: int) -> Item:
    data = in_form("raw", *SIGNER.numbers(payload(number)))
    return Item(parse(SIGNER.tuple_of(payload(number), section={"SD": data.hex(), "SM": "application/x-der"})), KEY)


def half(number: int, TX: str) -> Item:
    row = {"TM": f"2026-03-01T1{number}:00:00,000+0100 S", "TX": TX, "ST": "G", "RV": number, "RI": "1-b:1.8.e"}
    text = json.dumps({"FV": "1.0", "MS": "M", "PG": f"T{number}", "RD": [row | {"RU": "kWh"}]})
    return Item(parse(SIGNER.tuple_of(text)), KEY)


@pytest.mark.parametrize("form", list(Format))
def test_what_is_exported_is_read_back_and_verifies(form: Format) -> None:
    items = [signed(1), signed(2, ID="=<&>\\\"' ]]>"), signed(3, ID="+1,;\n\r\t"), half(4, "B"), half(5, "E")]
    exported = export(items, form)
    assert (exported.count, exported.notes) == (5, ())
    found = read_document(exported.text.encode())
    assert [one.text for one in found] == [item.receipt.text for item in items]
    for one in found:
        assert verify(parse(one.text), one.key or KEY).outcome is Outcome.VALID
    assert {one.key == "" for one in found} == {form is Format.PLAIN}


def elements(text: str) -> list[tuple[str | None, str | None, str | None, str | None]]:
    return [
        (value.get("transactionId"), value.get("context"), value.findtext("signedData"), value.findtext("publicKey"))
        for value in ET.fromstring(text.encode())  # noqa: S314  as above
    ]


def test_transparency_xml_has_one_id_per_transaction() -> None:
    items = [half(4, "B"), signed(1), half(5, "E"), signed(1)]
    exported = export(items, Format.TRANSPARENCY)
    texts = [item.receipt.text for item in items]
    assert elements(exported.text) == [
        ("1", "Transaction.Begin", texts[0], KEY),
        ("1", "Transaction.End", texts[2], KEY),
        ("2", "Transaction.End", texts[1], KEY),
    ]
    assert exported.count == 3
    assert exported.text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<values>\n')


def test_keys_become_der_and_a_bad_one_is_left_out() -> None:
    receipt = signed(1).receipt
    bare = SIGNER.public.hex()[2:]
    assert elements(export([Item(receipt, bare)], Format.TRANSPARENCY).text)[0][3] == KEY
    for key, said in (("", "without a public key"), ("00", "without its key: not a public key")):
        exported = export([Item(receipt, key)], Format.TRANSPARENCY)
        assert elements(exported.text)[0][3] is None
        assert any(said in note for note in exported.notes)


def test_text_that_xml_cannot_hold_goes_out_as_hex() -> None:
    receipt = parse(SIGNER.tuple_of(payload(1, ID="a\x01b")))
    exported = export([Item(receipt, KEY)], Format.TRANSPARENCY)
    assert 'encoding="hex"' in exported.text
    (found,) = read_document(exported.text.encode())
    assert found.text == receipt.text


@pytest.mark.parametrize("form", list(Format))
def test_a_raw_signature_stays_unless_asked(form: Format) -> None:
    item = raw(1)
    exported = export([item], form)
    (found,) = read_document(exported.text.encode())
    assert found.text == item.receipt.text
    assert "--reencode-signature" in exported.notes[0]
    exported = export([item], form, reencode_signature=True)
    (found,) = read_document(exported.text.encode())
    receipt = parse(found.text)
    assert "re-encoded as DER" in exported.notes[0]
    assert receipt.signed == item.receipt.signed
    assert form_of(receipt.signature) is Form.PLAIN
    assert (receipt.algorithm, receipt.signature["SM"]) == (item.receipt.algorithm, "application/x-der")
    assert verify(receipt, KEY).outcome is Outcome.VALID


@given(st.sampled_from(CURVES), st.sampled_from(["hex", "base64"]), st.data())
def test_any_signature_is_written_anew_on_every_curve(curve: Curve, encoding: str, data: st.DataObject) -> None:
    r, s = data.draw(st.integers(1, curve.n - 1)), data.draw(st.integers(1, curve.n - 1))
    raw = in_form("raw", r, s, curve)
    name = curve.name.replace("brainpool", data.draw(st.sampled_from(["brainpool", "brainpoolP"])))
    section = {"SA": f"ECDSA-{name}-SHA256", "SE": encoding, "SD": raw.hex() if encoding == "hex" else b64(raw)}
    made = reencoded(parse(f"OCMF|{payload(1)}|{json.dumps(section)}"))
    assert form_of(made.signature) is Form.PLAIN
    assert (r, s) in signature_numbers(made.signature, curve)


def key_of(r: int, s: int) -> str:
    """The key whose signature over the first payload (r, s) is."""
    data = in_form("raw", r, s)
    keys = ecdsa.VerifyingKey.from_public_key_recovery(data, payload(1).encode(), ecdsa.NIST256p, hashlib.sha256)
    found: str = keys[0].to_der().hex()
    return found


@pytest.mark.parametrize("form", ["raw", "der"])
def test_of_bytes_that_are_der_and_raw_at_once_the_signature_is_written_anew(form: str) -> None:
    for tail in range(1, 100):
        read_raw = bytes.fromhex("303e021c") + tail.to_bytes(28, "big") + bytes.fromhex("021e") + b"\x11" * 30
        as_raw = int.from_bytes(read_raw[:32], "big"), int.from_bytes(read_raw[32:], "big")
        as_der = tail, int.from_bytes(b"\x11" * 30, "big")
        receipt = parse(f'OCMF|{payload(1)}|{{"SD":"{read_raw.hex()}"}}')
        with contextlib.suppress(ecdsa.errors.MalformedPointError, ecdsa.numbertheory.Error):
            made = reencoded(receipt, key_of(*(as_raw if form == "raw" else as_der)))
            assert signature_numbers(made.signature, SECP256R1)[0] == (as_raw if form == "raw" else as_der)
            return
    raise AssertionError("none of a hundred numbers is that of a point")


def test_a_signature_that_cannot_be_read_is_left_as_it_is() -> None:
    item = Item(parse(f'OCMF|{payload(1)}|{{"SD":"zz"}}'), KEY)
    exported = export([item], Format.PLAIN, reencode_signature=True)
    assert exported.text == item.receipt.text + "\n"
    assert "cannot be re-encoded" in exported.notes[0]


def test_messages_of_ocpp_hold_the_signed_value_of_the_oca() -> None:
    value = signed_meter_value(signed(1))
    assert base64.b64decode(value.pop("signedMeterData")).decode() == signed(1).receipt.text
    assert base64.b64decode(value.pop("publicKey")).decode() == f"oca:base16:asn1:{KEY}"
    assert value == {"signingMethod": "", "encodingMethod": "OCMF"}
    (written,) = json.loads(export([signed(1)], Format.OCPP16).text)
    (sampled,) = written["sampledValue"]
    assert written["timestamp"] == "2026-03-01T11:30:00.500Z"
    assert (sampled["format"], sampled["context"]) == ("SignedData", "Transaction.End")
    assert json.loads(sampled["value"]) == signed_meter_value(signed(1))
    exported = export([signed(1), half(4, "B")], Format.OCPP201)
    one, two = (written["sampledValue"][0] for written in json.loads(exported.text))
    assert (one["value"], one["unitOfMeasure"], one["context"]) == (453895.0, {"unit": "Wh"}, "Transaction.End")
    assert one["signedMeterValue"] == signed_meter_value(signed(1))
    assert two["context"] == "Transaction.Begin"
    long = export([signed(1, ID="x" * LONGEST_OCPP_201)], Format.OCPP201)
    assert "OCPP 2.0.1 allows 2500" in long.notes[0]


def test_ocpp_leaves_out_what_has_no_time_or_value() -> None:
    no_time = Item(parse(SIGNER.tuple_of('{"RD":[{"TX":"B","RI":"1-b:1.8.e","RV":1,"RU":"kWh"}]}')), KEY)
    no_value = Item(parse(SIGNER.tuple_of(payload(1).replace('"RV"', '"XV"'))), KEY)
    for form, item in ((Format.OCPP16, no_time), (Format.OCPP201, no_time), (Format.OCPP201, no_value)):
        exported = export([item, signed(2)], form)
        assert exported.count == len(json.loads(exported.text)) == 1
        assert "omitted" in exported.notes[0]


@pytest.mark.parametrize(
    ("ID", "written"), [("\\u001b[2J\\r\\n=1", "[2J  =1"), ("\\u0007=1", "'=1"), ("=1+1", "'=1+1")]
)
def test_csv_has_no_control_characters_and_no_formulas_of_a_card(ID: str, written: str) -> None:
    [row] = csv.DictReader(io.StringIO(export([signed(1, ID=ID)], Format.CSV).text, newline=""))
    assert row["identification"] == written


def test_csv_has_a_row_for_each_receipt() -> None:
    exported = export([signed(1), Item(parse("OCMF|{}|{}"))], Format.CSV)
    one, two = csv.DictReader(io.StringIO(exported.text, newline=""))
    assert (one["meter"], one["pagination"], one["transaction_id"]) == ("1TST0000000001", "T1", "T-1")
    assert (one["begin"], one["end"]) == ("2026-03-01T11:00:00.000Z", "2026-03-01T11:30:00.500Z")
    assert (one["begin_wh"], one["end_wh"], one["energy_wh"]) == ("451795.000", "453895.000", "2100.000")
    assert two["tuple"] == "OCMF|{}|{}"
    assert two["energy_wh"] == ""


def genuine() -> list[Item]:
    items = [
        Item(parse(found.text), found.key)
        for found in read_document(shared("receipts/iem-dcr-2023-raw-signature.xml").read_bytes())
    ]
    key = json.loads(shared("device/publickey.json").read_text())["PK"]
    return [*items, Item(parse(shared("receipts/iem-dcr-2025-unpadded-der.ocmf").read_text()), key)]


@pytest.mark.parametrize("form", list(Format))
def test_genuine_receipts_are_exported_and_still_verify(form: Format) -> None:
    items = genuine()
    for reencode in (False, True):
        found = read_document(export(items, form, reencode_signature=reencode).text.encode())
        receipts: list[Receipt] = [parse(one.text) for one in found]
        for receipt, item in zip(receipts, items, strict=True):
            assert receipt.signed == item.receipt.signed
            assert verify(receipt, item.public_key).outcome is Outcome.VALID
        assert receipts[1].text == items[1].receipt.text
        forms = [any(one.code == "signature-form" for one in examine(receipt)) for receipt in receipts]
        assert forms == [not reencode, False]
