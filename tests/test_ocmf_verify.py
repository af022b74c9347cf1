"""Signatures and keys in all their forms on every curve of OCMF, and what becomes of them when they are changed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf import Outcome, Verification, parse, public_key_der_hex, verify
from iem_dcr.ocmf.keys import (
    CURVES,
    SECP192K1,
    SECP192R1,
    SECP256R1,
    Curve,
    key_of,
)
from iem_dcr.ocmf.signature import signature_numbers
from tests.support.ocmf_signing import FORMS, CurveSigner, b64, in_form, key_forms, order_of, pem
from tests.support.profiles import times

PAYLOAD = '{"FV":"1.0","PG":"T1","TT":"0,42 €/kWh","RD":[{"TX":"B","RV":"00000001.000"}]}'
SIGNER = CurveSigner()
KEY = SIGNER.spki
DER = bytes.fromhex(KEY)
every_curve = pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)


def name_of(curve: Curve) -> str:
    return f"ECDSA-{curve.name}-SHA256"


def write(payload: str, **signature: object) -> str:
    return f"OCMF|{payload}|{json.dumps(signature)}"


def checked(raw: bytes, *, curve: Curve = SECP256R1, key: str = KEY, payload: str = PAYLOAD) -> Verification:
    return verify(parse(write(payload, SA=name_of(curve), SD=raw.hex())), key)


# --- signatures ---


@every_curve
@settings(max_examples=times(25, 500))
@given(st.data())
def test_a_signature_verifies_and_a_changed_one_does_not(curve: Curve, data: st.DataObject) -> None:
    numbers = st.integers(1, order_of(curve) - 1)
    signer = CurveSigner(curve, secret=data.draw(numbers), nonce=data.draw(numbers))
    payload = json.dumps({"TT": data.draw(st.text()), "PG": "T1"}, ensure_ascii=False)
    raw = in_form(data.draw(st.sampled_from(FORMS)), *signer.numbers(payload), curve)
    encoding = data.draw(st.sampled_from(["hex", "base64"]))
    algorithm = name_of(curve).replace("brainpool", data.draw(st.sampled_from(["brainpool", "brainpoolP"])))

    def outcome(payload: str, raw: bytes, key: str = signer.spki) -> Outcome:
        written = raw.hex() if encoding == "hex" else b64(raw)
        return verify(parse(write(payload, SA=algorithm, SE=encoding, SD=written)), key).outcome

    assert outcome(payload, raw) is Outcome.VALID
    assert outcome(payload.replace('"T1"', '"T2"'), raw) is Outcome.INVALID
    assert outcome(payload + " ", raw) is Outcome.INVALID
    assert (
        outcome(payload, raw, CurveSigner(curve, secret=signer.secret % (order_of(curve) - 2) + 1).spki)
        is Outcome.INVALID
    )
    changed = bytearray(raw)
    changed[data.draw(st.integers(0, len(raw) - 1))] ^= 1
    assert outcome(payload, bytes(changed)) is not Outcome.VALID


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("start", "nonce"), [(0x00, 379), (0x80, 94), (0x30, 31)])
def test_leading_zeros_top_bits_and_der_look_alikes_verify(form: str, start: int, nonce: int) -> None:
    r, s = CurveSigner(nonce=nonce).numbers(PAYLOAD)
    assert r >> 248 == start
    assert checked(in_form(form, r, s)).outcome is Outcome.VALID


def test_64_bytes_that_are_der_and_raw_at_once_are_tried_as_both() -> None:
    r, s = int.from_bytes(b"\x11" * 29), int.from_bytes(b"\x22" * 29)
    both = b"\x30\x3e\x02\x1d" + b"\x11" * 29 + b"\x02\x1d" + b"\x22" * 29
    as_raw = int.from_bytes(both[:32]), int.from_bytes(both[32:])
    assert signature_numbers({"SD": both.hex()}, SECP256R1) == [(r, s), as_raw]
    assert checked(both).outcome is Outcome.INVALID


@every_curve
def test_numbers_at_the_edge_of_their_range_and_out_of_it_are_invalid(curve: Curve) -> None:
    key, n = CurveSigner(curve).spki, order_of(curve)
    for form in FORMS:
        for r, s in ((0, 1), (1, 0), (0, 0), (1, 1), (n - 1, n - 1), (n, 1), (1, n), (256**curve.size - 1,) * 2):
            result = checked(in_form(form, r, s, curve), curve=curve, key=key)
            assert (result.outcome, "does not match" in result.reason) == (Outcome.INVALID, True)


GOOD = in_form("der", *SIGNER.numbers(PAYLOAD))


@pytest.mark.parametrize("raw", [
    GOOD[:-1], b"\x31" + GOOD[1:], GOOD[:1] + bytes([GOOD[1] + 1]) + GOOD[2:], GOOD[:2] + b"\x03" + GOOD[3:],
    GOOD[:3] + b"\x7f" + GOOD[4:], GOOD[:3] + b"\xff" + GOOD[4:], GOOD[:3] + b"\x00" + GOOD[4:],
    b"\x30", b"\x30\x00", b"\x30\x03\x02\x01\x01", b"\x30\x04\x02\x00\x02\x00", b"\x30\x05\x02\x01\x01\x02\x01",
    b"\x30\x80\x02\x3e" + b"\x01" * 62 + b"\x02\x3e" + b"\x01" * 62,
], ids=lambda raw: raw[:6].hex())  # fmt: skip
def test_der_is_read_strictly_but_for_its_zeros(raw: bytes) -> None:
    result = checked(raw)
    assert result.outcome is Outcome.NOT_CHECKED
    assert "unreadable" in result.reason


any_value = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()) | st.just({"a": [1]})


@given(
    st.dictionaries(st.sampled_from(["SA", "SE", "SD", "SM"]), any_value), st.text(),
    st.sampled_from(CURVES), st.binary(max_size=210), st.sampled_from(["hex", "base64"]),
)  # fmt: skip
def test_any_signature_section_and_any_key_have_an_outcome(
    section: dict[str, object], key: str, curve: Curve, raw: bytes, encoding: str
) -> None:
    plain = {"SA": name_of(curve), "SE": encoding, "SD": raw.hex() if encoding == "hex" else b64(raw)}
    for signature in (section, plain):
        for public_key in (key, KEY, raw.hex(), "04" + raw.hex()):
            result = verify(parse(write(PAYLOAD, **signature)), public_key)
            assert result.outcome in {Outcome.INVALID, Outcome.NOT_CHECKED}
            assert result.reason.isprintable()


@pytest.mark.parametrize(("signature", "says"), [
    ({"SA": "ECDSA-secp521r1-SHA256"}, "'ECDSA-secp521r1-SHA256'"),
    ({"SA": "ECDSA-secp256r1-SHA384"}, "'ECDSA-secp256r1-SHA384'"),
    ({"SA": 5}, "not a string"), ({"SE": "base16"}, "SE is neither"), ({"SE": []}, "SE is neither"),
    ({"SE": "base64", "SD": "*"}, "not base64"), ({"SE": "base32", "SD": "*"}, "not base32"),
    ({"SD": "zz"}, "not hex"), ({"SD": "abc"}, "not hex"),
    ({"SD": ""}, "not hex"), ({"SD": "\u0660\u0660"}, "not hex"), ({"SD": None}, "missing"),
    ({"SD": "00" * 63}, "neither DER nor raw"),
])  # fmt: skip
def test_what_cannot_be_checked_is_said(signature: dict[str, object], says: str) -> None:
    result = verify(parse(write(PAYLOAD, **({"SD": in_form("raw", 1, 1).hex()} | signature))), KEY)
    assert result.outcome is Outcome.NOT_CHECKED
    assert says in result.reason


def test_nothing_is_checked_without_a_key_or_with_one_of_another_curve() -> None:
    assert [outcome.value for outcome in Outcome] == ["valid", "invalid", "not checked"]  # as in journals
    assert checked(GOOD, key=" ") == Verification(Outcome.NOT_CHECKED, "no public key: the text is empty")
    for other in {*CURVES} - {SECP256R1}:
        said = f"the key has the curve {other.name}, but the signature algorithm has secp256r1"
        assert checked(GOOD, key=CurveSigner(other).spki) == Verification(Outcome.NOT_CHECKED, said)


# --- keys ---


@every_curve
@settings(max_examples=times(10, 200))
@given(st.data())
def test_every_form_of_a_key_on_every_curve_is_read(curve: Curve, data: st.DataObject) -> None:
    signer = CurveSigner(curve, secret=data.draw(st.integers(1, order_of(curve) - 1)))
    receipt = parse(signer.tuple_of(PAYLOAD))
    for form in key_forms(signer).values():
        assert key_of(form, curve).der.hex() == signer.spki, form
        assert public_key_der_hex(form, name_of(curve)).lower() == signer.spki
        assert verify(receipt, form).outcome is Outcome.VALID


def test_a_key_in_hex_keeps_its_letters_and_a_coordinate_may_begin_with_04() -> None:
    for key in (KEY.upper(), KEY[:54] + KEY[54:].upper()):
        assert public_key_der_hex(f" {key}\n") == key
    point = CurveSigner(secret=106).public
    assert point[1] == 0x04
    assert public_key_der_hex(point[1:].hex()).endswith(point.hex())


@every_curve
def test_points_off_the_curve_are_no_keys(curve: Curve) -> None:
    signer = CurveSigner(curve)
    (x, y), size = signer.point(), curve.size
    for bad in ((x, y ^ 1), (y, x), (0, 0), (2 ** (8 * size) - 1,) * 2, (2 ** (8 * size) - 1, y), (x + 1, y)):
        point = b"\x04" + b"".join(value.to_bytes(size, "big") for value in bad)
        for text in (point.hex(), point[1:].hex(), signer.spki_of(point), (b"\x02" + b"\xff" * size).hex()):
            with pytest.raises(ReceiptError, match="not on the curve"):
                key_of(text, curve)


@pytest.mark.parametrize("text", [
    "", " \n", "00", "04", "3000", "key", "é" * 128, "\u0660" * 128, "\ud800" * 130, "0" * 10_000_000,
    KEY[:-2], KEY + "00", "0x" + KEY, "05" + DER[-64:].hex(), "31" + KEY[2:], b64(DER[:-1]),
    CurveSigner(CURVES[1]).spki, SIGNER.spki_of(b"\x00"), "oca:base16:asn1:00", "oca:base32:asn1:AA", "oca:",
    b64("oca:base16:asn1:zz"), b64(b"oca:\xff"), "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----", pem("3000"),
], ids=lambda text: f"{text[:20]!a}…{len(text)}")  # fmt: skip
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ReceiptError, match="key") as caught:
        public_key_der_hex(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    with pytest.raises(ReceiptError, match="known: ECDSA-secp192k1-SHA256"):
        public_key_der_hex(text, "RSA-2048-SHA256")


# --- the curves and the packages that have them ---


def test_a_sum_at_infinity_is_no_signature() -> None:
    """With r = -hash and the generator as key, both points of the sum cancel out."""
    digest = int.from_bytes(hashlib.sha256(PAYLOAD.encode()).digest()) >> 64
    raw = in_form("der", order_of(SECP192K1) - digest % order_of(SECP192K1), 5)
    key = CurveSigner(SECP192K1, secret=1).spki
    assert checked(raw, curve=SECP192K1, key=key).outcome is Outcome.INVALID


VALID = "VALID the signature matches the data and the key"
MISSING = "NOT_CHECKED this curve needs the package ecdsa: install iem-dcr[tools]"
UNUSABLE = "NOT_CHECKED the package cryptography cannot be used"
NO_ECDSA = "sys.modules['ecdsa'] = None; "
NO_192R1 = "from cryptography.hazmat.primitives.asymmetric import ec; del ec.SECP192R1; "
VERIFY = "v = o.verify(r, key); print(v.outcome.name, v.reason)"
REENCODE = (
    "from iem_dcr.ocmf.export import *; raw = o.parse(r.text.replace(r.signature['SD'], '11' * 64)); "
    "print(*(note.split(': ', 1)[1] for note in export([Item(raw)], Format.PLAIN, reencode_signature=True).notes))"
)
LOADED = "print({'ecdsa', 'cryptography'} & {*sys.modules})"


@pytest.mark.parametrize(("curve", "program", "said"), [
    (SECP256R1, LOADED, "set()"), (SECP256R1, f"o.prepare(); {LOADED}", "{'cryptography'}"),
    (SECP256R1, f"o.verify(r, key); {LOADED}", "{'cryptography'}"), (SECP192K1, VERIFY, VALID),
    (SECP192K1, NO_ECDSA + VERIFY, MISSING), (SECP256R1, NO_ECDSA + VERIFY, VALID),
    (SECP192R1, NO_192R1 + VERIFY, VALID), (SECP192R1, NO_192R1 + NO_ECDSA + VERIFY, MISSING),
    (SECP256R1, f"sys.modules['cryptography'] = None; {VERIFY}", UNUSABLE),
    (SECP256R1, f"sys.modules['cryptography'] = None; {REENCODE}", "its signature cannot be re-encoded: the package"),
], ids=[
    "importing loads neither", "preparing", "verifying", "192k1 with ecdsa", "192k1 without it", "256r1 without it",
    "192r1 with ecdsa alone", "192r1 without either", "without cryptography", "re-encoding without cryptography",
])  # fmt: skip
def test_packages_are_loaded_when_they_are_needed(curve: Curve, program: str, said: str) -> None:
    signer = CurveSigner(curve)
    begin = f"import sys, iem_dcr.ocmf as o; key = {signer.spki!r}; r = o.parse({signer.tuple_of(PAYLOAD)!r}); "
    done = subprocess.run([sys.executable, "-c", begin + program], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(said)
