"""Verdicts: what signatures and findings make of a transaction, to the letter of the transparency software.

Every case is signed here with a throw-away key. Where a case says what the transparency software does, that is what its
source says.
"""

from __future__ import annotations

import base64
import textwrap
from decimal import Decimal

import ecdsa  # type: ignore[import-untyped]  # it comes without types
import pytest

from iem_dcr.ocmf import Outcome, Verification, parse, verify
from iem_dcr.ocmf.import_formats import found_around, read_document
from iem_dcr.ocmf.keys import curve_of
from iem_dcr.ocmf.verdict import Judgement, Verdict, energy_summary, energy_summary_of, judge, verdict_on
from tests.support.ocmf_signing import BEGIN, END, EXPORT, CurveSigner, Row, b64, in_form, key_forms, payload, pem

SIGNER = CurveSigner()
OTHER = CurveSigner(secret=99)
KEY = SIGNER.spki
PAYLOAD = payload(BEGIN, END)
GOOD = SIGNER.tuple_of(PAYLOAD)
SD = in_form("der", *SIGNER.numbers(PAYLOAD))
ACCEPTED, REFUSED = Judgement.ACCEPTED, Judgement.REFUSED


def signed(*rows: Row, **fields: object) -> str:
    return SIGNER.tuple_of(payload(*rows, **fields))


def of(*texts: str, key: str = KEY) -> Verdict:
    return verdict_on([parse(text) for text in texts], key)


def codes(verdict: Verdict) -> list[str]:
    return [found.code for found in verdict.findings]


def judged(text: str, key: str = KEY) -> tuple[Judgement, list[str]]:
    verdict = of(text, key=key)
    return verdict.judgement, codes(verdict)


def test_a_good_transaction_is_accepted_also_in_two_tuples() -> None:
    begin, end = parse(GOOD).readings
    for verdict in (of(GOOD), of(signed(BEGIN), signed(END, PG="T2"))):
        assert (verdict.judgement, verdict.findings, verdict.energy_wh) == (ACCEPTED, (), Decimal(7625))
        assert {one.outcome for one in verdict.verifications} == {Outcome.VALID}
        assert verdict.deciding is not None
        assert (verdict.deciding.begin, verdict.deciding.end) == (begin.TM, end.TM)
    alone = of(signed(BEGIN))
    assert (alone.judgement, alone.energy_wh, codes(alone)) == (ACCEPTED, None, ["transaction-incomplete"])


def test_a_signature_comes_before_every_finding() -> None:
    text = signed(BEGIN, END, IL="UNKNOWN")
    assert of(text.replace("UNKNOWN", "SECURES")).judgement is Judgement.INVALID
    assert of(text, key="").judgement is Judgement.NOT_CHECKED
    of_another_curve = CurveSigner(curve_of("ECDSA-secp384r1-SHA256")).tuple_of(payload(END, PG="T2"))
    assert of(signed(BEGIN), of_another_curve).judgement is Judgement.NOT_CHECKED


@pytest.mark.parametrize(("receipts", "verifications"), [(1, 0), (1, 2), (0, 0)])
def test_every_receipt_has_its_verification(receipts: int, verifications: int) -> None:
    with pytest.raises(ValueError, match=f"{receipts} receipts"):
        judge([parse(GOOD)] * receipts, [Verification(Outcome.VALID, "")] * verifications)


# --- energies ---


@pytest.mark.parametrize(("begin", "end", "energies", "judgement", "found"), [
    ([BEGIN, EXPORT], [END, EXPORT | {"RV": 6}],
     [("1-b:1.8.e", "import", 7625, True), ("1-b:2.8.e", "export", -1000, False)], ACCEPTED,
     ["register-falling-between"]),
    ([BEGIN | {"RI": "1-0:B2.8.0"}, BEGIN | {"RI": "1-0:B3.8.0"}],
     [END | {"RI": "1-0:B2.8.0"}, END | {"RI": "1-0:B3.8.0"}],
     [("1-0:B2.8.0", "import", 7625, False), ("1-0:B3.8.0", "import", 7625, True)], ACCEPTED, []),
    ([BEGIN | {"RI": "1-0:B2.8.0"}, BEGIN | {"RI": "1-0:C2.8.0"}],
     [END | {"RI": "1-0:B2.8.0"}, END | {"RI": "1-0:C2.8.0"}],
     [("1-0:B2.8.0", "import", 7625, True), ("1-0:C2.8.0", "export", 7625, False)], REFUSED, ["registers-mixed"]),
    ([BEGIN | {"RI": "1-0:C2.8.0"}], [END | {"RI": "1-0:C2.8.0"}], [("1-0:C2.8.0", "export", 7625, True)], ACCEPTED,
     []),
    ([BEGIN | {"RV": "0.1"}], [END | {"RV": "100.3", "RU": "Wh"}], [("1-b:1.8.e", "import", Decimal("0.3"), True)],
     ACCEPTED, ["units-mixed"]),
    ([BEGIN, BEGIN | {"RI": "1-0:1.8.2"}], [END, END | {"RI": "1-0:1.8.2"}],
     [("1-b:1.8.e", "import", 7625, True), ("1-0:1.8.2", "import", 7625, True)], REFUSED, ["registers-mixed"]),
], ids=["export beside", "no cable loss", "import before export", "a discharge", "units", "two tariffs"])  # fmt: skip
def test_one_register_decides(
    begin: list[Row], end: list[Row], energies: list[object], judgement: Judgement, found: list[str]
) -> None:
    verdict = of(signed(*begin, *end))
    assert [(one.register, one.direction, one.energy_wh, one.decides) for one in verdict.energies] == energies
    decided = [one.energy_wh for one in verdict.energies if one.decides]
    assert verdict.energy_wh == (decided[0] if len(decided) == 1 else None)
    assert (verdict.judgement, codes(verdict)) == (judgement, found)


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
    text = signed(*rows)
    assert energy_summary_of(parse(text)) == energy_summary(of(text).energies) == summary


# --- read as there, with a finding ---


@pytest.mark.parametrize(("begin", "end"), [("        12.5", "20.125 "), (".5", "5.")])
def test_numbers_are_read_as_there_and_their_form_is_shown(begin: str, end: str) -> None:
    verdict = of(signed(BEGIN | {"RV": begin}, END | {"RV": end}))
    assert (verdict.judgement, codes(verdict)) == (ACCEPTED, ["number-form", "number-form"])
    assert verdict.findings[0].text == f"RV is written as {begin!r}"
    assert verdict.energy_wh == 1000 * (Decimal(end.strip()) - Decimal(begin.strip()))


B64 = {"SE": "base64"}


@pytest.mark.parametrize("section", [
    {"SD": SD.hex(" ")}, {"SD": "\r\n".join(textwrap.wrap(SD.hex(), 40))},
    B64 | {"SD": "\n".join(textwrap.wrap(b64(SD), 30))}, B64 | {"SD": b64(SD) + " "}, B64 | {"SD": b64(SD).rstrip("=")},
    {"SE": "base32", "SD": base64.b32encode(SD).decode()}, {"SA": None}, {"SE": None},
    {"SA": "ECDSA-SECP256R1-sha256"}, {"SD": "3081" + SD.hex()[2:]},
    {"SD": f"30{SD[1] + 1:02x}0281" + SD.hex()[6:]}, {"SD": SD.hex() + "00"},
    {"SD": f"30{SD[1] + 3:02x}" + SD.hex()[4:] + "020101"},
], ids=ascii)  # fmt: skip
def test_a_signature_is_read_in_every_spelling(section: dict[str, object]) -> None:
    text = SIGNER.tuple_of(PAYLOAD, section=section)
    plain = section == B64 | {"SD": b64(SD)}
    assert judged(text) == (ACCEPTED, [] if plain else ["signature-spelling"])
    assert judged(text.replace("04AB", "04AC"))[0] is Judgement.INVALID


@pytest.mark.parametrize(("section", "judgement", "found"), [
    ({"SE": "HEX"}, REFUSED, ["signature-encoding"]),
    ({"SE": "Base64", "SD": b64(SD)}, REFUSED, ["signature-encoding"]),
    (B64 | {"SD": "\r\n".join(textwrap.wrap(b64(SD), 30))}, REFUSED, ["signature-encoding"]),
    ({"SA": "ecdsa-secp256r1-SHA256"}, Judgement.NOT_CHECKED, ["signature-spelling"]),
    ({"SA": "ECDSA-secp256r1-SHA384"}, Judgement.NOT_CHECKED, ["signature-spelling"]),
    ({"SE": "plain"}, Judgement.NOT_CHECKED, ["signature-form"]),
    ({"SD": "3080" + SD.hex()[4:] + "0000"}, Judgement.NOT_CHECKED, ["signature-form"]),
])  # fmt: skip
def test_what_is_not_read_there_is_refused_or_not_checked(
    section: dict[str, object], judgement: Judgement, found: list[str]
) -> None:
    assert judged(SIGNER.tuple_of(PAYLOAD, section=section)) == (judgement, found)


# --- keys ---

DER = bytes.fromhex(KEY)
LONG = b"\x30\x81" + DER[1:]
EXPLICIT = ecdsa.VerifyingKey.from_der(DER).to_der(curve_parameters_encoding="explicit")


@pytest.mark.parametrize("key", [b64(DER).rstrip("="), EXPLICIT.hex(), LONG.hex(), b64(LONG)])
def test_a_key_in_an_odd_form_is_read_and_told(key: str) -> None:
    assert judged(GOOD, key) == (ACCEPTED, ["key-spelling"])
    assert verify(parse(OTHER.tuple_of(PAYLOAD)), key).outcome is Outcome.INVALID


def test_a_key_in_a_usual_form_has_no_finding() -> None:
    for form, key in key_forms(SIGNER).items():
        assert judged(GOOD, key) == (ACCEPTED, []), form


# --- the transparency software's XML ---


def xml(*values: str, root: str = "values") -> bytes:
    return f'<?xml version="1.0"?>\n<{root}>{"".join(values)}</{root.split(maxsplit=1)[0]}>'.encode()


def value(text: str, key: str = KEY, context: str = "", attributes: str = "") -> str:
    written = text.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<value transactionId="1" context="{context}"><signedData format="OCMF" {attributes}>{written}</signedData>'
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
], ids=range(7))  # fmt: skip
def test_what_can_be_opened_there(data: bytes) -> None:
    verdict = in_document(data)
    assert (verdict.judgement, verdict.findings) == (ACCEPTED, ())


@pytest.mark.parametrize(("data", "why"), [
    (xml(value(b64(GOOD))), "data in hex or base64"),
    (xml(value(GOOD.encode().hex(), attributes='encoding="hex"')), "data in hex or base64"),
    *((xml(value(GOOD, key)), "a key that is not DER") for key in (pem(KEY), SIGNER.public.hex(), b64(KEY))),
    (xml(value(GOOD), root='values xmlns="http://example.com/x"'), "a namespace"),
    (xml(value(GOOD), root="v:values xmlns:v='x'"), "a namespace"),
    (xml("<list>", value(GOOD), "</list>"), "other elements around"),
    (xml(value(GOOD), root="receipts"), "other elements around"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_what_cannot_be_opened_there_is_valid_and_needs_another_file(data: bytes, why: str) -> None:
    verdict = in_document(data)
    assert (verdict.judgement, codes(verdict)) == (ACCEPTED, ["container-not-readable"])
    assert why in verdict.findings[0].text


@pytest.mark.parametrize("around", ["{} x", "{}}}", "x {}", "{0}\n{0}", '"{}"'])
def test_text_around_a_tuple_is_refused_there(around: str) -> None:
    found = read_document(xml(value(around.format(GOOD))))[0]
    verdict = judge([parse(found.text)], [verify(parse(found.text), found.key)], (), found_around([found]))
    assert (verdict.judgement, verdict.errors) == (REFUSED, ("text-around-tuple",))


@pytest.mark.parametrize(("begin", "end", "errors"), [
    ("Begin", "End", ()), ("End", "Begin", ("context-swapped",)), ("End", "End", ("context-swapped",)),
])  # fmt: skip
def test_swapped_contexts_are_refused_there(begin: str, end: str, errors: tuple[str, ...]) -> None:
    last = value(signed(END, PG="T2"), context=f"Transaction.{end}")
    verdict = in_document(xml(last, value(signed(BEGIN), context=f"Transaction.{begin}")))
    assert (verdict.judgement, verdict.errors) == (REFUSED if errors else ACCEPTED, errors)
