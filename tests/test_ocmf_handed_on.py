"""What the transparency software makes of a receipt, to the letter, and receipts in every form a CSMS hands over.

Every case is signed here with a throw-away key. Where a case says what the transparency software does, that is what its
source says.
"""

from __future__ import annotations

import base64
import json
import textwrap

import ecdsa  # type: ignore[import-untyped]  # it comes without types
import pytest

from iem_dcr.ocmf import parse
from iem_dcr.ocmf.import_formats import Found, found_around, read_document
from iem_dcr.ocmf.keys import SECP192K1, SECP256R1, SECP384R1, is_plain
from iem_dcr.ocmf.signature import Outcome, verify
from iem_dcr.ocmf.verdict import Judgement, Verdict, energy_summary, energy_summary_of, judge, verdict_on
from tests.support.ocmf_signing import CurveSigner, der

Row = dict[str, object]
SIGNER = CurveSigner(SECP256R1)
OTHER = CurveSigner(SECP256R1, secret=99)
KEY = SIGNER.spki
BEGIN: Row = {
    "TM": "2024-10-27T02:30:00,125+0200 S", "TX": "B", "EF": "", "ST": "G", "RV": "00000012.500", "RI": "1-b:1.8.e",
    "RU": "kWh",
}  # fmt: skip
END: Row = BEGIN | {"TM": "2024-10-27T02:45:00,250+0100 S", "TX": "E", "RV": "00000020.125"}
EXPORT: Row = {"RI": "1-b:2.8.e", "RV": "7"}


def payload(*rows: Row, **fields: object) -> str:
    return json.dumps({"FV": "1.0", "MS": "M1", "PG": "T1", "ID": "04AB", "RD": list(rows)} | fields)


def b64(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


PAYLOAD = payload(BEGIN, END)
GOOD = SIGNER.tuple_of(PAYLOAD)
SD = der(*SIGNER.numbers(PAYLOAD))


def judged(text: str, key: str = KEY) -> tuple[Judgement, list[str]]:
    verdict = verdict_on([parse(text)], key)
    return verdict.judgement, [found.code for found in verdict.findings]


def test_the_case_that_the_others_begin_with_is_good() -> None:
    assert judged(GOOD) == (Judgement.ACCEPTED, [])


# --- read as there, with a finding ---


def with_numbers(begin: str, end: str) -> str:
    return PAYLOAD.replace('"00000012.500"', begin).replace('"00000020.125"', end)


@pytest.mark.parametrize("text", [
    with_numbers('"        12.5"', '"20.125 "'), with_numbers('".5"', '"5."'), with_numbers(".5", "5."),
    with_numbers("0012.5", "+20"), with_numbers("-.5", "00"),
])  # fmt: skip
def test_numbers_are_read_as_there(text: str) -> None:
    judgement, codes = judged(SIGNER.tuple_of(text))
    assert judgement is Judgement.ACCEPTED
    assert set(codes) == {"number-form"}


def test_what_is_hidden_in_a_number_is_shown() -> None:
    verdict = verdict_on([parse(SIGNER.tuple_of(with_numbers('" 12.5"', '"20"')))], KEY)
    assert verdict.findings[0].text == "RV is written as ' 12.5'"
    assert verdict.energy_wh == 7500


def test_no_unit_counts_as_kwh_there() -> None:
    text = SIGNER.tuple_of(payload(BEGIN | {"RU": ""}, END | {"RU": ""}))
    assert judged(text) == (Judgement.ACCEPTED, ["unit-unknown"] * 2)


def test_one_register_may_be_spelled_with_and_without_its_total() -> None:
    text = SIGNER.tuple_of(payload(BEGIN | {"RI": "1-0:1.8.0"}, END | {"RI": "1-0:1.8.0*255"}))
    assert judged(text) == (Judgement.ACCEPTED, ["register-spelling"])
    verdict = verdict_on([parse(text)], KEY)
    assert verdict.energy_wh == parse(text).energy_wh == 7625


@pytest.mark.parametrize(("section", "judgement", "code"), [
    ({"SD": SD.hex(" ")}, Judgement.ACCEPTED, "signature-spelling"),
    ({"SD": "\r\n".join(textwrap.wrap(SD.hex(), 40))}, Judgement.ACCEPTED, "signature-spelling"),
    ({"SE": "base64", "SD": "\n".join(textwrap.wrap(b64(SD), 30))}, Judgement.ACCEPTED, "signature-spelling"),
    ({"SE": "base64", "SD": b64(SD).rstrip("=") if b64(SD).endswith("=") else b64(SD) + " "}, Judgement.ACCEPTED,
     "signature-spelling"),
    ({"SE": "base32", "SD": base64.b32encode(SD).decode()}, Judgement.ACCEPTED, "signature-spelling"),
    ({"SA": None}, Judgement.ACCEPTED, "signature-spelling"),
    ({"SE": None}, Judgement.ACCEPTED, "signature-spelling"),
    ({"SA": "ECDSA-SECP256R1-sha256"}, Judgement.ACCEPTED, "signature-spelling"),
    ({"SD": "3081" + SD.hex()[2:]}, Judgement.ACCEPTED, "signature-spelling"),
    ({"SD": f"30{SD[1] + 1:02x}0281" + SD.hex()[6:]}, Judgement.ACCEPTED, "signature-spelling"),
    ({"SD": SD.hex() + "00"}, Judgement.ACCEPTED, "signature-spelling"),
    ({"SD": f"30{SD[1] + 3:02x}" + SD.hex()[4:] + "020101"}, Judgement.ACCEPTED, "signature-spelling"),
    ({"SE": "HEX"}, Judgement.REFUSED, "signature-encoding"),
    ({"SE": "Base64", "SD": b64(SD)}, Judgement.REFUSED, "signature-encoding"),
    ({"SE": "base64", "SD": "\r\n".join(textwrap.wrap(b64(SD), 30))}, Judgement.REFUSED, "signature-encoding"),
])  # fmt: skip
def test_a_signature_is_read_in_every_spelling(section: dict[str, object], judgement: Judgement, code: str) -> None:
    text = SIGNER.tuple_of(PAYLOAD, section=section)
    assert judged(text) == (judgement, [code])
    assert judged(text.replace("04AB", "04AC"))[0] is Judgement.INVALID


@pytest.mark.parametrize("section", [
    {"SA": "ecdsa-secp256r1-SHA256"}, {"SA": "ECDSA-secp256r1"}, {"SA": "ECDSA-secp256r1-SHA384"}, {"SE": "plain"},
    {"SD": "3080" + SD.hex()[4:] + "0000"},
])  # fmt: skip
def test_what_is_not_read_there_is_not_checked_here(section: dict[str, object]) -> None:
    assert judged(SIGNER.tuple_of(PAYLOAD, section=section))[0] is Judgement.NOT_CHECKED


# --- keys ---

DER = bytes.fromhex(KEY)
PEM = f"-----BEGIN PUBLIC KEY-----\n{chr(10).join(textwrap.wrap(b64(DER), 64))}\n-----END PUBLIC KEY-----\n"
OCA = f"oca:base16:asn1:{KEY}"
EXPLICIT = ecdsa.VerifyingKey.from_der(DER).to_der(curve_parameters_encoding="explicit")
LONG = b"\x30\x81" + DER[1:]
POINT = SIGNER.public
KEYS: dict[str, tuple[str, bool]] = {
    "hex": (KEY, True),
    "base64": (b64(DER), True),
    "base64 without padding": (b64(DER).rstrip("="), not b64(DER).endswith("=")),
    "base32": (base64.b32encode(DER).decode(), True),
    "PEM": (PEM, True),
    "base64 of hex, as the OCA's example": (b64(KEY), True),
    "base64 of upper hex": (b64(KEY.upper()), True),
    "base64 of oca": (b64(OCA), True),
    "base64 of PEM": (b64(PEM), True),
    "base64 of a point": (b64(POINT), True),
    "base64 of X and Y": (b64(POINT[1:]), True),
    "base64 twice": (b64(b64(DER)), True),
    "oca with blanks": (f" oca:base16:asn1: {DER.hex(' ')}", True),
    "oca with colons": (f"oca:base16:asn1:{DER.hex(':')}", True),
    "oca in lines": ("oca:base16:asn1:" + "\r\n".join(textwrap.wrap(KEY, 40)), True),
    "base64 of oca in lines": (b64(f"oca:base16:asn1:\n{KEY}\n"), True),
    "explicit parameters": (EXPLICIT.hex(), False),
    "long lengths": (LONG.hex(), False),
    "long lengths in base64": (b64(LONG), False),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_is_read_in_every_form(name: str) -> None:
    key, is_written_plainly = KEYS[name]
    assert judged(GOOD, key) == (Judgement.ACCEPTED, [] if is_written_plainly else ["key-spelling"])
    assert is_plain(key, SECP256R1) is is_written_plainly
    assert verify(parse(OTHER.tuple_of(PAYLOAD)), key).outcome is Outcome.INVALID


@pytest.mark.parametrize("curve", [SECP384R1, SECP192K1], ids=lambda curve: curve.name)
def test_other_curves_are_read_alike(curve: object) -> None:
    signer = CurveSigner(curve)  # type: ignore[arg-type]
    raw = bytes.fromhex(signer.spki)
    for key in (signer.spki, b64(signer.spki), b64(signer.public), (b"\x30\x81" + raw[1:]).hex()):
        assert verify(parse(signer.tuple_of(PAYLOAD)), key).outcome is Outcome.VALID


# --- the transparency software's XML ---


def xml(*values: str, root: str = "values") -> bytes:
    return f'<?xml version="1.0"?>\n<{root}>{"".join(values)}</{root.split(maxsplit=1)[0]}>'.encode()


def value(text: str, key: str = KEY, context: str = "", attributes: str = "") -> str:
    of = f' context="{context}"' if context else ""
    written = text.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<value transactionId="1"{of}><signedData format="OCMF" {attributes}>{written}</signedData>'
        f"<publicKey>{key}</publicKey></value>"
    )


def in_document(data: bytes) -> Verdict:
    """Judge the one transaction of a document, a begin before its end."""
    found = sorted(read_document(data), key=lambda one: str(parse(one.text).pagination))
    receipts = [parse(one.text) for one in found]
    keys = [one.key for one in found]
    checks = [verify(receipt, key) for receipt, key in zip(receipts, keys, strict=True)]
    return judge(receipts, checks, keys, found_around(found))


@pytest.mark.parametrize("data", [
    xml(value(GOOD)), xml(value(f"\n  {GOOD}\n")), xml(value(GOOD, b64(DER))), xml(value(GOOD + "|something")),
    xml(value(GOOD, attributes='encoding="base64"')), xml(value(GOOD), root='values xmlns:xsi="x"'),
    xml(value(GOOD, context="Transaction.Begin")),
])  # fmt: skip
def test_what_can_be_opened_there(data: bytes) -> None:
    verdict = in_document(data)
    assert (verdict.judgement, verdict.findings) == (Judgement.ACCEPTED, ())


@pytest.mark.parametrize(("data", "why"), [
    (xml(value(b64(GOOD))), "data in hex or base64"),
    (xml(value(GOOD.encode().hex(), attributes='encoding="hex"')), "data in hex or base64"),
    (xml(value(GOOD, PEM)), "a key that is no DER"),
    (xml(value(GOOD, POINT.hex())), "a key that is no DER"),
    (xml(value(GOOD, b64(KEY))), "a key that is no DER"),
    (xml(value(GOOD), root='values xmlns="http://example.com/x"'), "a namespace"),
    (xml(value(GOOD), root="v:values xmlns:v='x'"), "a namespace"),
    (xml("<list>", value(GOOD), "</list>"), "other elements around"),
    (xml(value(GOOD), root="receipts"), "other elements around"),
])  # fmt: skip
def test_what_cannot_be_opened_there_is_valid_and_needs_another_file(data: bytes, why: str) -> None:
    verdict = in_document(data)
    assert verdict.judgement is Judgement.ACCEPTED
    (found,) = verdict.findings
    assert found.code == "container-not-readable"
    assert why in found.text


@pytest.mark.parametrize("text", [GOOD + " x", GOOD + "}", "x " + GOOD, GOOD + "\n" + GOOD, f'"{GOOD}"'])
def test_text_around_a_tuple_is_refused_there(text: str) -> None:
    found = read_document(xml(value(text)))[0]
    verdict = judge([parse(found.text)], [verify(parse(found.text), found.key)], (), found_around([found]))
    assert (verdict.judgement, verdict.errors) == (Judgement.REFUSED, ("text-around-tuple",))


def halves(begin_context: str, end_context: str) -> bytes:
    begin, end = SIGNER.tuple_of(payload(BEGIN)), SIGNER.tuple_of(payload(END, PG="T2"))
    return xml(value(end, context=end_context), value(begin, context=begin_context))


def test_swapped_contexts_are_refused_there() -> None:
    assert in_document(halves("Transaction.Begin", "Transaction.End")).judgement is Judgement.ACCEPTED
    for contexts in (("Transaction.End", "Transaction.Begin"), ("Transaction.End", "Transaction.End")):
        verdict = in_document(halves(*contexts))
        assert (verdict.judgement, verdict.errors) == (Judgement.REFUSED, ("context-swapped",))


# --- what a CSMS hands over ---

OTHER_METER = OTHER.tuple_of(payload(BEGIN, END, MS="M2"))


def signed_value(text: str = GOOD, key: str = "") -> dict[str, str]:
    return {"signedMeterData": b64(text), "signingMethod": "", "encodingMethod": "OCMF", "publicKey": key or b64(OCA)}


def message(text: str = GOOD) -> str:
    sampled = {"value": json.dumps(signed_value(text)), "format": "SignedData", "context": "Transaction.End"}
    values = [{"timestamp": "2026-03-01T11:30:00Z", "sampledValue": [sampled]}]
    return json.dumps([2, "19", "StopTransaction", {"transactionId": 7, "transactionData": values}])


def outcomes(document: str, notes: list[str] | None = None) -> list[tuple[str, Outcome]]:
    found = read_document(document.encode(), notes)
    return [(one.source, verify(parse(one.text), one.key).outcome) for one in found]


OICP = {
    "SessionID": "x",
    "CalibrationLawVerificationInfo": {"CalibrationLawCertificateID": "c", "PublicKey": KEY},
    "SignedMeteringValues": [{"SignedMeteringValue": GOOD, "MeteringStatus": "End"}],
}
OCPI = {"encoding_method": "OCMF", "public_key": b64(DER), "signed_values": [{"nature": "End", "signed_data": GOOD}]}


@pytest.mark.parametrize("document", [
    OICP,
    [OICP],
    OCPI,
    {"publicKey": {"encoding": "plain", "publicKey": KEY}, "data": GOOD},
    {"meterPublicKey": KEY, "data": [GOOD]},
    {"meter_public_key": KEY, "receipt": {"ocmf": GOOD}},
    {"receipt": xml(value(GOOD)).decode()},
    {"publicKey": KEY, "receipt": xml(f"<value><signedData>{GOOD}</signedData></value>").decode()},
    {"receipt": b64(xml(value(GOOD)))},
    *(signed_value() | {"signedMeterData": data} for data in (
        GOOD, b64(GOOD), b64(GOOD + " ").rstrip("="), b64(GOOD + "  ").rstrip("="), b64(b64(GOOD)),
        b64("\n" + GOOD), b64("\ufeff" + GOOD), b64(f'"{GOOD}"'), b64(json.dumps(GOOD)), GOOD.encode().hex(),
        "\n".join(textwrap.wrap(b64(GOOD), 76)),
    )),
])  # fmt: skip
def test_every_form_is_read_with_its_key(document: object) -> None:
    assert [outcome for _, outcome in outcomes(json.dumps(document))] == [Outcome.VALID]


def test_json_may_be_as_deep_as_it_is_read() -> None:
    deep = '{"a":' * 400 + json.dumps(signed_value()) + "}" * 400
    assert [outcome for _, outcome in outcomes(deep)] == [Outcome.VALID]


def test_the_key_of_the_objects_beside_is_taken_only_where_it_is_one() -> None:
    two = {"begin": {"publicKey": KEY}, "end": {"publicKey": OTHER.spki}, "data": GOOD}
    assert [one.key for one in read_document(json.dumps(two).encode())] == [""]
    near = {"a": {"publicKey": OTHER.spki, "data": OTHER_METER}, "publicKey": KEY, "data": GOOD}
    assert [one.key for one in read_document(json.dumps(near).encode())] == [OTHER.spki, KEY]


@pytest.mark.parametrize(("junk", "place"), [("hello", 2), ('{"signedMeterData": "T0NNRnw', 2), ("[1, 2", 2)])
def test_a_line_that_is_no_json_is_a_note(junk: str, place: int) -> None:
    line = json.dumps(signed_value())
    notes: list[str] = []
    lines = [line, line, line]
    lines.insert(place - 1, junk)
    assert outcomes("\n".join(lines), notes) == [(f"line {n}", Outcome.VALID) for n in (1, 3, 4)]
    assert notes == [f"line {place}: no JSON and no receipt; passed over"]


def test_many_lines_that_are_no_json_are_counted() -> None:
    notes: list[str] = []
    assert len(outcomes("\n".join(["{", *["x"] * 12, json.dumps(signed_value())]), notes)) == 1
    assert notes == ["lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more: no JSON and no receipt; passed over"]


@pytest.mark.parametrize("before", ["2026-03-01 11:30:01,123 [INFO] CP1 -> ", "CP1 sent: ", "{1} got ", '"CP1": '])
def test_a_log_of_ocpp_messages_is_read(before: str) -> None:
    notes: list[str] = []
    log = f'log begins\n{before}{message()}\r\n\n{before}[3,"19",{{}}]\n{before}{message()} (sent)\n'
    assert [outcome for _, outcome in outcomes(log, notes)] == [Outcome.VALID] * 2
    assert notes in ([], ["line 1: no JSON and no receipt; passed over"])


def test_a_log_of_tuples_and_messages_loses_none() -> None:
    log = f"12:00 OCMF got {GOOD}\n12:01 {message()}\n12:02 got {GOOD};\n"
    assert [source for source, _ in outcomes(log)] == ["line 1", "line 2", "line 3"]


# --- both directions ---


@pytest.mark.parametrize(("rows", "summary"), [
    ((BEGIN, END), "7.625 kWh"),
    ((BEGIN, EXPORT, END, EXPORT), "7.625 kWh"),
    ((BEGIN, EXPORT, END, EXPORT | {"RV": "12.2"}), "7.625 kWh import, 5.200 kWh export"),
    ((BEGIN, EXPORT, END | {"RV": "12.5"}, EXPORT | {"RV": "12.2"}), "0.000 kWh import, 5.200 kWh export"),
    ((BEGIN | EXPORT, END | EXPORT | {"RV": "8"}), "1.000 kWh export"),
    ((BEGIN | {"RI": "1-0:C2.8.0"}, END | {"RI": "1-0:C2.8.0"}), "7.625 kWh export"),
    ((BEGIN,), ""),
    ((), ""),
])  # fmt: skip
def test_a_summary_shows_both_directions_where_something_was_fed_back(rows: tuple[Row, ...], summary: str) -> None:
    receipt = parse(SIGNER.tuple_of(payload(*rows)))
    assert energy_summary_of(receipt) == summary
    assert energy_summary(verdict_on([receipt], KEY).energies) == summary


def test_found_is_plain() -> None:
    """What is found in a document without XML has no findings of its own."""
    (found,) = read_document(GOOD.encode())
    assert found == Found(GOOD, source="line 1")
