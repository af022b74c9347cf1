"""Receipts handed on in every form: byte for byte, read back and verified, and what is not byte for byte said."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET  # what is read here was written here
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.ocmf import Outcome, Receipt, parse, verify
from iem_dcr.ocmf.export import LONGEST_OCPP_201, Format, Item, export
from iem_dcr.ocmf.import_formats import read_document
from iem_dcr.ocmf.keys import CURVES, SECP256R1, Curve
from iem_dcr.ocmf.signature import Form, form_of, signature_numbers
from tests.support.journals import tuple_text
from tests.support.ocmf_signing import CurveSigner, b64, in_form, order_of
from tests.support.shared import shared

SIGNER = CurveSigner(SECP256R1)
KEY = SIGNER.spki
every_format = pytest.mark.parametrize("form", list(Format))


def payload(number: int, **fields: str) -> str:
    return tuple_text(number, **fields).split("|")[1]


def signed(number: int, **fields: str) -> Item:
    return Item(parse(SIGNER.tuple_of(payload(number, **fields))), KEY, f"T-{number}")


def half(number: int, TX: str) -> Item:
    row = {"TM": f"2026-03-01T1{number}:00:00,000+0100 S", "TX": TX, "ST": "G", "RV": number, "RI": "1-b:1.8.e"}
    text = json.dumps({"FV": "1.0", "MS": "M", "PG": f"T{number}", "RD": [row | {"RU": "kWh"}]})
    return Item(parse(SIGNER.tuple_of(text)), KEY)


@every_format
def test_what_is_exported_is_read_back_and_verifies(form: Format) -> None:
    with_controls = signed(6, ID="a\x01b")  # XML cannot hold it: it goes out as hex
    items = [signed(1), signed(2, ID="=<&>\\\"' ]]>"), signed(3, ID="+1,;\n\r\t"), half(4, "B"), half(5, "E")]
    exported = export([*items, with_controls], form)
    found = read_document(exported.text.encode())
    assert exported.count == len(found) == 6
    assert [one.text for one in found] == [item.receipt.text for item in (*items, with_controls)]
    assert {verify(parse(one.text), one.key or KEY).outcome for one in found} == {Outcome.VALID}
    assert {one.key == "" for one in found} == {form is Format.PLAIN}
    assert [note[:11] for note in exported.notes] == (["receipt T6 "] if form is Format.TRANSPARENCY else [])


# --- for the transparency software ---


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


@pytest.mark.parametrize(("key", "written", "said"), [
    (SIGNER.public.hex()[2:], KEY, ""), ("", None, "without a public key"),
    ("00", None, "without its key: not a public key"),
])  # fmt: skip
def test_keys_become_der_and_a_bad_one_is_left_out(key: str, written: str | None, said: str) -> None:
    exported = export([replace(signed(1), public_key=key)], Format.TRANSPARENCY)
    assert elements(exported.text)[0][3] == written
    assert said in "".join(exported.notes)
    assert bool(said) is bool(exported.notes)


# --- signatures written anew ---


def reencoded(receipt: Receipt, key: str = KEY, form: Format = Format.PLAIN) -> tuple[Receipt, str]:
    """The receipt that an export with signatures re-encoded holds, and its first note."""
    exported = export([Item(receipt, key)], form, reencode_signature=True)
    (found,) = read_document(exported.text.encode())
    return parse(found.text), exported.notes[0]


@every_format
def test_a_raw_signature_stays_unless_asked(form: Format) -> None:
    data = in_form("raw", *SIGNER.numbers(payload(1)))
    raw = parse(SIGNER.tuple_of(payload(1), section={"SD": data.hex(), "SM": "application/x-der"}))
    exported = export([Item(raw, KEY)], form)
    (found,) = read_document(exported.text.encode())
    assert found.text == raw.text
    assert "--reencode-signature" in exported.notes[0]
    receipt, note = reencoded(raw, form=form)
    assert "re-encoded as DER" in note
    assert (receipt.signed, receipt.algorithm, receipt.signature["SM"]) == (
        raw.signed,
        raw.algorithm,
        "application/x-der",
    )
    assert form_of(receipt.signature) is Form.PLAIN
    assert verify(receipt, KEY).outcome is Outcome.VALID


@given(st.sampled_from(CURVES), st.sampled_from(["hex", "base64"]), st.data())
def test_any_signature_is_written_anew_on_every_curve(curve: Curve, encoding: str, data: st.DataObject) -> None:
    r, s = (data.draw(st.integers(1, order_of(curve) - 1)) for _ in range(2))
    raw = in_form("raw", r, s, curve)
    name = curve.name.replace("brainpool", data.draw(st.sampled_from(["brainpool", "brainpoolP"])))
    section = {"SA": f"ECDSA-{name}-SHA256", "SE": encoding, "SD": raw.hex() if encoding == "hex" else b64(raw)}
    made, _ = reencoded(parse(f"OCMF|{payload(1)}|{json.dumps(section)}"), "")
    assert form_of(made.signature) is Form.PLAIN
    assert (r, s) in signature_numbers(made.signature, curve)


@pytest.mark.parametrize(("tail", "is_raw", "point"), [
    (1, True, "021cda59fb7592f85b4e726fdb79c3130d7a7f0444be1e4e4eccf3b2375d470f0f"),
    (5, False, "02b553225885e5df2cccc8178e5f895367923f7b4b96f3a01ad1846320c285b5bf"),
])  # fmt: skip
def test_of_bytes_that_are_der_and_raw_at_once_the_signature_is_written_anew(
    tail: int, point: str, *, is_raw: bool
) -> None:
    """The points are those of keys that make the bytes a signature, read as raw or as DER."""
    both = bytes.fromhex("303e021c") + tail.to_bytes(28, "big") + bytes.fromhex("021e") + b"\x11" * 30
    made, _ = reencoded(parse(f'OCMF|{payload(1)}|{{"SD":"{both.hex()}"}}'), point)
    numbers = (int.from_bytes(both[:32]), int.from_bytes(both[32:])) if is_raw else (tail, int.from_bytes(b"\x11" * 30))
    assert signature_numbers(made.signature, SECP256R1)[0] == numbers


def test_a_signature_that_cannot_be_read_is_left_as_it_is() -> None:
    receipt = parse(f'OCMF|{payload(1)}|{{"SD":"zz"}}')
    made, note = reencoded(receipt)
    assert made.text == receipt.text
    assert "cannot be re-encoded" in note


# --- OCPP and CSV ---


def test_messages_of_ocpp_hold_the_signed_value_of_the_oca() -> None:
    item = signed(1)
    (written,) = json.loads(export([item], Format.OCPP16).text)
    (sampled,) = written["sampledValue"]
    assert written["timestamp"] == "2026-03-01T11:30:00.500Z"
    assert (sampled["format"], sampled["context"]) == ("SignedData", "Transaction.End")
    value = {
        "signedMeterData": b64(item.receipt.text), "signingMethod": "", "encodingMethod": "OCMF",
        "publicKey": b64(f"oca:base16:asn1:{KEY}"),
    }  # fmt: skip
    assert json.loads(sampled["value"]) == value
    exported = export([item, half(4, "B"), signed(3, ID="x" * LONGEST_OCPP_201)], Format.OCPP201)
    one, two, _ = (written["sampledValue"][0] for written in json.loads(exported.text))
    assert (one["value"], one["unitOfMeasure"], one["context"]) == (453895.0, {"unit": "Wh"}, "Transaction.End")
    assert (one["signedMeterValue"], two["context"]) == (value, "Transaction.Begin")
    assert "receipt T3" in exported.notes[0]
    assert "OCPP 2.0.1 allows 2500" in exported.notes[0]


def test_ocpp_leaves_out_what_has_no_time_or_value() -> None:
    no_time = Item(parse(SIGNER.tuple_of('{"RD":[{"TX":"B","RI":"1-b:1.8.e","RV":1,"RU":"kWh"}]}')), KEY)
    no_value = Item(parse(SIGNER.tuple_of(payload(1).replace('"RV"', '"XV"'))), KEY)
    for form, item in ((Format.OCPP16, no_time), (Format.OCPP201, no_time), (Format.OCPP201, no_value)):
        exported = export([item, signed(2)], form)
        assert exported.count == len(json.loads(exported.text)) == 1
        assert "omitted" in exported.notes[0]


def test_csv_has_a_row_for_each_receipt_and_neither_controls_nor_formulas_of_a_card() -> None:
    odd_ids = {"\\u001b[2J\\r\\n=1": "[2J  =1", "\\u0007=1": "'=1", "=1+1": "'=1+1"}
    items = [signed(1), Item(parse("OCMF|{}|{}")), *(signed(2, ID=ID) for ID in odd_ids)]
    one, two, *odd = csv.DictReader(io.StringIO(export(items, Format.CSV).text, newline=""))
    assert (one["meter"], one["pagination"], one["transaction_id"]) == ("1TST0000000001", "T1", "T-1")
    assert (one["begin"], one["end"]) == ("2026-03-01T11:00:00.000Z", "2026-03-01T11:30:00.500Z")
    assert (one["begin_wh"], one["end_wh"], one["energy_wh"]) == ("451795.000", "453895.000", "2100.000")
    assert (two["tuple"], two["energy_wh"]) == ("OCMF|{}|{}", "")
    assert [row["identification"] for row in odd] == [*odd_ids.values()]


@every_format
@pytest.mark.parametrize("reencode", [False, True])
def test_genuine_receipts_are_exported_and_still_verify(form: Format, *, reencode: bool) -> None:
    (raw,) = read_document(shared("receipts/iem-dcr-2023-raw-signature.xml").read_bytes())
    key = json.loads(shared("device/publickey.json").read_text())["PK"]
    unpadded = parse(shared("receipts/iem-dcr-2025-unpadded-der.ocmf").read_text())
    items = [Item(parse(raw.text), raw.key), Item(unpadded, key)]
    found = read_document(export(items, form, reencode_signature=reencode).text.encode())
    receipts = [parse(one.text) for one in found]
    for receipt, item in zip(receipts, items, strict=True):
        assert receipt.signed == item.receipt.signed
        assert verify(receipt, item.public_key).outcome is Outcome.VALID
    assert receipts[1].text == unpadded.text
    assert [form_of(receipt.signature) is Form.NOT_DER for receipt in receipts] == [not reencode, False]
