"""Signatures and keys in all their forms, made with fresh keys, and what becomes of them when they are changed."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf import Outcome, Verification, parse, public_key_der_hex, verify
from iem_dcr.ocmf.keys import SECP256R1
from iem_dcr.ocmf.signature import signature_numbers

if TYPE_CHECKING:
    from collections.abc import Callable

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
PAYLOAD = '{"FV":"1.0","PG":"T1","TT":"0,42 €/kWh","RD":[{"TX":"B","RV":"00000001.000"}]}'
FORMS = ["der", "unpadded", "fixed", "raw"]


def integer(value: bytes) -> bytes:
    return b"\x02" + bytes([len(value)]) + value


def in_form(form: str, r: int, s: int) -> bytes:
    if form == "der":
        return utils.encode_dss_signature(r, s)
    if form == "raw":
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    size = 32 if form == "fixed" else None
    body = b"".join(integer(n.to_bytes(size or (n.bit_length() + 7) // 8, "big")) for n in (r, s))
    return b"\x30" + bytes([len(body)]) + body


def write(payload: str, **signature: object) -> str:
    return f"OCMF|{payload}|{json.dumps(signature)}"


@dataclass(frozen=True)
class Signer:
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def numbers(self, payload: str = PAYLOAD) -> tuple[int, int]:
        return utils.decode_dss_signature(self.key.sign(payload.encode(), ec.ECDSA(SHA256())))

    def numbers_such_that(self, start: bytes) -> tuple[int, int]:
        """Sign until r‖s begins with these bytes."""
        while True:
            r, s = self.numbers()
            if r.to_bytes(32, "big").startswith(start):
                return r, s


def fresh() -> Signer:
    return Signer(ec.generate_private_key(ec.SECP256R1()))


SIGNER = fresh()


def outcome(text: str, key: str | None = None) -> Outcome:
    return verify(parse(text), SIGNER.der.hex() if key is None else key).outcome


@pytest.mark.parametrize("form", FORMS)
@given(payload_text=st.text(), secret=st.integers(1, ORDER - 1), as_base64=st.booleans(), at=st.integers(0))
def test_a_signature_verifies_and_a_changed_one_does_not(
    *, form: str, payload_text: str, secret: int, as_base64: bool, at: int
) -> None:
    signer = Signer(ec.derive_private_key(secret, ec.SECP256R1()))
    payload = json.dumps({"TT": payload_text, "PG": "T1"}, ensure_ascii=False)
    raw = in_form(form, *signer.numbers(payload))

    def written(payload: str, raw: bytes) -> str:
        if as_base64:
            return write(payload, SE="base64", SD=base64.b64encode(raw).decode())
        return write(payload, SD=raw.hex())

    key = signer.der.hex()
    assert outcome(written(payload, raw), key) is Outcome.VALID
    assert outcome(written(payload.replace('"T1"', '"T2"'), raw), key) is Outcome.INVALID
    assert outcome(written(payload + " ", raw), key) is Outcome.INVALID
    assert outcome(written(payload, raw), SIGNER.der.hex()) is Outcome.INVALID
    changed = bytearray(raw)
    changed[at % len(raw)] ^= 1
    assert outcome(written(payload, bytes(changed)), key) is not Outcome.VALID


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", [b"\x00", b"\x80", b"\x30"])
def test_leading_zeros_top_bits_and_der_look_alikes(form: str, start: bytes) -> None:
    signer = fresh()
    raw = in_form(form, *signer.numbers_such_that(start))
    assert outcome(write(PAYLOAD, SD=raw.hex().upper()), signer.der.hex()) is Outcome.VALID


def test_64_bytes_that_are_der_and_raw_at_once_are_tried_as_both() -> None:
    as_der = b"\x30\x3e" + integer(b"\x11" * 29) + integer(b"\x22" * 29)
    assert signature_numbers({"SD": as_der.hex()}, SECP256R1) == [
        (int.from_bytes(b"\x11" * 29, "big"), int.from_bytes(b"\x22" * 29, "big")),
        (int.from_bytes(as_der[:32], "big"), int.from_bytes(as_der[32:], "big")),
    ]
    assert outcome(write(PAYLOAD, SD=as_der.hex())) is Outcome.INVALID


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("r", "s"), [(0, 1), (1, 0), (0, 0), (ORDER, 1), (1, ORDER), (2**256 - 1, 2**256 - 1)])
def test_numbers_out_of_range_are_invalid(form: str, r: int, s: int) -> None:
    if form == "unpadded" and 0 in (r, s):
        form = "fixed"  # zero has no shortest form without its one byte
    result = verify(parse(write(PAYLOAD, SD=in_form(form, r, s).hex())), SIGNER.der.hex())
    assert result.outcome is Outcome.INVALID
    assert "out of the range" in result.reason


def test_s_and_its_negative_are_both_signatures() -> None:
    r, s = SIGNER.numbers()
    assert outcome(write(PAYLOAD, SD=in_form("raw", r, ORDER - s).hex())) is Outcome.VALID


@pytest.mark.parametrize("damage", [
    lambda raw: raw[:-1],
    lambda raw: b"\x31" + raw[1:],
    lambda raw: raw[:1] + bytes([raw[1] + 1]) + raw[2:],
    lambda raw: raw[:2] + b"\x03" + raw[3:],
    lambda raw: raw[:3] + b"\x7f" + raw[4:],
    lambda raw: raw[:3] + b"\xff" + raw[4:],
    lambda raw: raw[:3] + b"\x00" + raw[4:],
])  # fmt: skip
def test_der_is_read_strictly_but_for_its_zeros(damage: Callable[[bytes], bytes]) -> None:
    assert_unreadable(damage(in_form("der", *SIGNER.numbers())))


@pytest.mark.parametrize("raw", [
    b"\x30", b"\x30\x00", b"\x30\x03\x02\x01\x01", b"\x30\x04\x02\x00\x02\x00", b"\x30\x05\x02\x01\x01\x02\x01",
    b"\x30\x80\x02\x3e" + b"\x01" * 62 + b"\x02\x3e" + b"\x01" * 62,
])  # fmt: skip
def test_der_of_too_few_numbers_is_unreadable(raw: bytes) -> None:
    assert_unreadable(raw)


@pytest.mark.parametrize(("r", "s"), [(1, 1), (ORDER - 1, ORDER - 1)])
def test_numbers_at_the_edge_of_the_range_are_in_it(r: int, s: int) -> None:
    result = verify(parse(write(PAYLOAD, SD=in_form("raw", r, s).hex())), SIGNER.der.hex())
    assert result.outcome is Outcome.INVALID
    assert "does not match" in result.reason


def test_outcomes_are_written_as_they_stand_in_journals() -> None:
    assert [outcome.value for outcome in Outcome] == ["valid", "invalid", "not checked"]


def test_cryptography_is_loaded_ahead_when_asked() -> None:
    script = "import sys; from iem_dcr import ocmf; a = {*sys.modules}; ocmf.prepare(); print({*sys.modules} - a)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "'cryptography'" in done.stdout


def assert_unreadable(raw: bytes) -> None:
    result = verify(parse(write(PAYLOAD, SD=raw.hex())), SIGNER.der.hex())
    assert result.outcome is Outcome.NOT_CHECKED
    assert "unreadable" in result.reason


@given(st.binary(max_size=80), st.sampled_from(["hex", "base64"]))
def test_any_bytes_as_signature_have_an_outcome(raw: bytes, encoding: str) -> None:
    data = raw.hex() if encoding == "hex" else base64.b64encode(raw).decode()
    assert outcome(write(PAYLOAD, SE=encoding, SD=data)) in {Outcome.INVALID, Outcome.NOT_CHECKED}


any_value = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()) | st.just({"a": [1]})


@given(st.dictionaries(st.sampled_from(["SA", "SE", "SD", "SM"]), any_value), st.text())
def test_any_signature_section_and_any_key_have_an_outcome(signature: dict[str, object], key: str) -> None:
    receipt = parse(write(PAYLOAD, **signature))
    for public_key in (key, SIGNER.der.hex()):
        result = verify(receipt, public_key)
        assert result.outcome is Outcome.NOT_CHECKED
        assert result.reason.isprintable()


@pytest.mark.parametrize(("signature", "says"), [
    ({"SA": "ECDSA-secp521r1-SHA256"}, "'ECDSA-secp521r1-SHA256'"),
    ({"SA": "ECDSA-secp256r1-SHA384"}, "'ECDSA-secp256r1-SHA384'"),
    ({"SA": 5}, "not a string"),
    ({"SE": "base16"}, "SE is neither"),
    ({"SE": []}, "SE is neither"),
    ({"SE": "base64"}, "not base64"),
    ({"SD": "zz"}, "not hex"),
    ({"SD": "abc"}, "not hex"),
    ({"SD": ""}, "not hex"),
    ({"SD": "\u0660\u0660"}, "not hex"),
    ({"SD": None}, "missing"),
    ({"SD": "00" * 63}, "neither DER nor raw"),
])  # fmt: skip
def test_what_cannot_be_checked_is_said(signature: dict[str, object], says: str) -> None:
    readable = {"SA": "ECDSA-secp256r1-SHA256", "SD": "*" if "SE" in signature else in_form("raw", 1, 1).hex()}
    result = verify(parse(write(PAYLOAD, **(readable | signature))), SIGNER.der.hex())
    assert result.outcome is Outcome.NOT_CHECKED
    assert says in result.reason


def test_without_a_key_nothing_is_checked() -> None:
    receipt = parse(write(PAYLOAD, SD=in_form("der", *SIGNER.numbers()).hex()))
    assert verify(receipt, " ") == Verification(Outcome.NOT_CHECKED, "no public key: the text is empty")


def test_every_form_of_a_key() -> None:
    der = SIGNER.der
    text = write(PAYLOAD, SD=in_form("raw", *SIGNER.numbers()).hex())
    point = der[-65:]
    forms = [
        *(der.hex(), der.hex().upper(), base64.b64encode(der).decode(), base64.encodebytes(der).decode()),
        *(point.hex(), point.hex().upper(), f"\n\t{point.hex(' ')}\n"),
        *(point[1:].hex(), point[1:].hex().upper()),
    ]
    for form in forms:
        assert public_key_der_hex(form).lower() == der.hex()
        assert outcome(text, form) is Outcome.VALID
    assert public_key_der_hex(f" {der.hex().upper()}\n") == der.hex().upper()
    mixed = der[:27].hex() + der[27:].hex().upper()
    assert public_key_der_hex(mixed) == mixed


def test_a_coordinate_that_begins_with_04_is_no_marker() -> None:
    while True:
        point = fresh().der[-65:]
        if point[1] == 0x04:
            break
    assert public_key_der_hex(point[1:].hex()).endswith(point.hex())


def other_curve() -> str:
    return Signer(ec.generate_private_key(ec.SECP256K1())).der.hex()


@pytest.mark.parametrize("text", [
    "", " \n", "00", "key", "é" * 128, "\u0660" * 128,
    SIGNER.der.hex()[:-2], SIGNER.der.hex() + "00", "0x" + SIGNER.der.hex(),
    "05" + SIGNER.der[-64:].hex(), "31" + SIGNER.der.hex()[2:], other_curve(),
    base64.b64encode(SIGNER.der[:-1]).decode(), "\ud800" * 130,
], ids=itertools.count())  # fmt: skip
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ReceiptError) as caught:
        public_key_der_hex(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("coordinates", [
    bytes(64),
    b"\xff" * 64,
    SIGNER.der[-64:-1] + bytes([SIGNER.der[-1] ^ 1]),
    SIGNER.der[-32:] + SIGNER.der[-64:-32],
], ids=["zero", "all ones", "last bit", "swapped"])  # fmt: skip
def test_points_off_the_curve_are_refused(coordinates: bytes) -> None:
    for text in (coordinates.hex(), "04" + coordinates.hex(), (SIGNER.der[:-64] + coordinates).hex()):
        with pytest.raises(ReceiptError, match="not on the curve"):
            public_key_der_hex(text)


def run(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_package_does_not_import_cryptography() -> None:
    loaded = "print(any(name.split('.')[0] == 'cryptography' for name in sys.modules))"
    text, key = write(PAYLOAD, SD="11" * 64), SIGNER.der.hex()
    before = f"import sys, iem_dcr.ocmf as o; r = o.parse({text!r}); "
    assert run(before + loaded) == "False"
    assert run(before + f"o.verify(r, {key!r}); " + loaded) == "True"


def test_without_cryptography_nothing_is_checked() -> None:
    text, key = write(PAYLOAD, SD="11" * 64), SIGNER.der.hex()
    said = run(
        "import sys; sys.modules['cryptography'] = None; import iem_dcr.ocmf as o; "
        f"v = o.verify(o.parse({text!r}), {key!r}); print(v.outcome.name, v.reason)"
    )
    assert said.startswith("NOT_CHECKED the package cryptography cannot be used")
