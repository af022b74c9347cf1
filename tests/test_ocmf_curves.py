"""Every algorithm of OCMF, and keys in all their forms on every curve."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import textwrap

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf import Outcome, Verification, parse, public_key_der_hex, verify
from iem_dcr.ocmf.ecdsa import key_at
from iem_dcr.ocmf.keys import (
    CURVE_OF_ALGORITHM,
    CURVES,
    SECP192K1,
    SECP192R1,
    SECP256R1,
    SECP384R1,
    Curve,
    key_of,
)
from iem_dcr.ocmf.signature import in_der
from tests.support.ocmf_signing import CurveSigner
from tests.support.profiles import times

PAYLOAD = '{"FV":"1.0","PG":"T1"}'
CLASSES: dict[str, ec.EllipticCurve] = {
    "secp192r1": ec.SECP192R1(),
    "secp256k1": ec.SECP256K1(),
    "secp256r1": ec.SECP256R1(),
    "secp384r1": ec.SECP384R1(),
    "brainpool256r1": ec.BrainpoolP256R1(),
    "brainpool384r1": ec.BrainpoolP384R1(),
}
every_curve = pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)


def checked(text: str, key: str) -> Verification:
    return verify(parse(text), key)


def name_of(curve: Curve) -> str:
    return f"ECDSA-{curve.name}-SHA256"


@every_curve
def test_every_algorithm_verifies_and_a_changed_receipt_does_not(curve: Curve) -> None:
    signer = CurveSigner(curve)
    text = signer.tuple_of(PAYLOAD)
    assert checked(text, signer.spki).outcome is Outcome.VALID
    assert checked(text.replace('"T1"', '"T2"'), signer.spki).outcome is Outcome.INVALID
    assert checked(text, CurveSigner(curve, secret=2).spki).outcome is Outcome.INVALID
    r, s = signer.numbers(PAYLOAD)
    size = curve.size
    raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    for section in ({"SD": raw.hex()}, {"SE": "base64", "SD": base64.b64encode(raw).decode()}):
        written = f"OCMF|{PAYLOAD}|{json.dumps({'SA': name_of(curve), **section})}"
        assert checked(written, signer.spki).outcome is Outcome.VALID


@every_curve
@pytest.mark.parametrize(("r", "s"), [(0, 1), (1, 0), ("n", 1), (1, "n")])
def test_numbers_out_of_range_are_invalid_on_every_curve(curve: Curve, r: int | str, s: int | str) -> None:
    size = curve.size
    raw = b"".join((curve.n if value == "n" else int(value)).to_bytes(size, "big") for value in (r, s))
    result = checked(f"OCMF|{PAYLOAD}|{json.dumps({'SA': name_of(curve), 'SD': raw.hex()})}", CurveSigner(curve).spki)
    assert result == Verification(Outcome.INVALID, f"r or s of the signature is out of the range of {curve.name}")


@pytest.mark.parametrize("name", ["ECDSA-brainpoolP256r1-SHA256", "ECDSA-brainpoolP384r1-SHA256"])
def test_brainpool_with_its_p_is_the_same_curve(name: str) -> None:
    signer = CurveSigner(CURVE_OF_ALGORITHM[name])
    assert checked(signer.tuple_of(PAYLOAD, name), signer.spki).outcome is Outcome.VALID


@pytest.mark.parametrize("name", CLASSES)
def test_our_curves_are_those_of_cryptography(name: str) -> None:
    curve = CURVE_OF_ALGORITHM[f"ECDSA-{name}-SHA256"]
    key = ec.derive_private_key(0xC0FFEE, CLASSES[name]).public_key()
    assert key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) == CurveSigner(curve).public
    assert key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex() == CurveSigner(curve).spki


def pem(spki: str) -> str:
    body = "\n".join(textwrap.wrap(base64.b64encode(bytes.fromhex(spki)).decode(), 64))
    return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"


def forms(signer: CurveSigner) -> list[str]:
    """A key in every form."""
    curve, point, spki = signer.curve, signer.public, signer.spki
    x, y = signer.point()
    short = bytes([2 + y % 2]) + x.to_bytes(curve.size, "big")
    oca = f"oca:base16:asn1:{spki}"
    return [
        *(spki, spki.upper(), base64.b64encode(bytes.fromhex(spki)).decode(), pem(spki), oca),
        *(base64.b64encode(oca.encode()).decode(), f"oca:base64:asn1:{base64.b64encode(bytes.fromhex(spki)).decode()}"),
        *(point.hex(), point[1:].hex(), point.hex(" "), short.hex(), signer.spki_of(short)),
    ]  # fmt: skip


@every_curve
@settings(max_examples=times(10, 200))
@given(st.data())
def test_every_form_of_a_key_on_every_curve(curve: Curve, data: st.DataObject) -> None:
    signer = CurveSigner(curve, secret=data.draw(st.integers(1, curve.n - 1)))
    for form in forms(signer):
        assert key_of(form, curve).point == signer.public, form
        assert public_key_der_hex(form, name_of(curve)).lower() == signer.spki


@every_curve
def test_a_receipt_verifies_with_every_form(curve: Curve) -> None:
    signer = CurveSigner(curve)
    text = signer.tuple_of(PAYLOAD)
    assert {checked(text, form).outcome for form in forms(signer)} == {Outcome.VALID}


@every_curve
def test_points_off_the_curve_are_no_keys(curve: Curve) -> None:
    x, y = CurveSigner(curve).point()
    size = curve.size
    for bad in ((x, y ^ 1), (y, x), (0, 0), (2 ** (8 * size) - 1, y), (x + 1, y)):
        point = b"\x04" + b"".join(value.to_bytes(size, "big") for value in bad)
        for text in (point.hex(), point[1:].hex(), CurveSigner(curve).spki_of(point)):
            with pytest.raises(ReceiptError, match="not on the curve"):
                key_of(text, curve)
    for start in (b"\x02", b"\x03"):
        with pytest.raises(ReceiptError, match="not on the curve"):
            key_of((start + b"\xff" * size).hex(), curve)


@pytest.mark.parametrize(
    "text",
    [
        "00",
        "04",
        "3000",
        CurveSigner(SECP256R1).spki_of(b"\x00"),
        "oca:base16:asn1:00",
        "oca:base32:asn1:AA",
        "oca:",
        base64.b64encode(b"oca:base16:asn1:zz").decode(),
        base64.b64encode(b"oca:\xff").decode(),
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
        pem("3000"),
    ],
)
def test_the_point_at_infinity_and_other_fragments_are_no_keys(text: str) -> None:
    with pytest.raises(ReceiptError, match="public key"):
        key_of(text, SECP256R1)


def test_a_key_of_another_curve_is_not_checked() -> None:
    text = CurveSigner(SECP256R1).tuple_of(PAYLOAD)
    for other in CURVES:
        if other is SECP256R1:
            continue
        result = checked(text, CurveSigner(other).spki)
        assert result.outcome is Outcome.NOT_CHECKED
        assert result.reason == f"the key is one of {other.name}, but the signature algorithm's is secp256r1"


def test_an_unknown_algorithm_has_no_key() -> None:
    with pytest.raises(ReceiptError, match="known: ECDSA-secp192k1-SHA256"):
        public_key_der_hex(CurveSigner(SECP384R1).spki, "RSA-2048-SHA256")


def test_an_endless_key_is_refused() -> None:
    with pytest.raises(ReceiptError, match="10000000 characters"):
        key_of("0" * 10_000_000, SECP256R1)


@every_curve
def test_a_key_checks_signatures(curve: Curve) -> None:
    signer = CurveSigner(curve)
    r, s = signer.numbers(PAYLOAD)
    key = key_of(signer.spki, curve)
    assert key.verifies(in_der(r, s), PAYLOAD.encode())
    assert key.verifies(in_der(r, curve.n - s), PAYLOAD.encode())
    assert not key.verifies(in_der(s, r), PAYLOAD.encode())
    assert not key.verifies(in_der(r, s), PAYLOAD.encode() + b" ")
    assert not key.verifies(b"\x30\x00", PAYLOAD.encode())


def test_a_sum_at_infinity_is_no_signature() -> None:
    """With r = -hash and the generator as key, both points of the sum cancel out."""
    digest = int.from_bytes(hashlib.sha256(PAYLOAD.encode()).digest(), "big") >> 64
    key = key_at(CurveSigner(SECP192K1, secret=1).public, SECP192K1)
    assert not key.verifies(in_der(SECP192K1.n - digest % SECP192K1.n, 5), PAYLOAD.encode())


def test_a_key_read_once_is_at_hand() -> None:
    signer = CurveSigner(SECP256R1, secret=77)
    assert key_of(signer.spki, SECP256R1) is key_of(signer.spki, SECP256R1)
    assert key_of.cache_info().maxsize == 256


def run(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


VALID = "VALID the signature matches the data and the key"
MISSING = "NOT_CHECKED this curve needs the package ecdsa: install iem-dcr[tools]"
WITHOUT_ECDSA = "sys.modules['ecdsa'] = None"
WITHOUT_192R1 = "from cryptography.hazmat.primitives.asymmetric import ec; del ec.SECP192R1"


@pytest.mark.parametrize(("curve", "start", "said"), [
    (SECP192K1, "pass", VALID),
    (SECP192K1, WITHOUT_ECDSA, MISSING),
    (SECP256R1, WITHOUT_ECDSA, VALID),
    (SECP192R1, WITHOUT_192R1, VALID),
    (SECP192R1, f"{WITHOUT_192R1}; {WITHOUT_ECDSA}", MISSING),
])  # fmt: skip
def test_a_curve_that_cryptography_lacks_needs_another_package(curve: Curve, start: str, said: str) -> None:
    signer = CurveSigner(curve)
    program = (
        f"import sys; import iem_dcr.ocmf as o; {start}; "
        f"v = o.verify(o.parse({signer.tuple_of(PAYLOAD)!r}), {signer.spki!r}); print(v.outcome.name, v.reason)"
    )
    assert run(program) == said


def test_the_other_package_is_loaded_for_its_curve_only() -> None:
    signer = CurveSigner(SECP256R1)
    program = (
        "import sys, iem_dcr.ocmf as o; "
        f"o.verify(o.parse({signer.tuple_of(PAYLOAD)!r}), {signer.spki!r}); print('ecdsa' in sys.modules)"
    )
    assert run(program) == "False"
