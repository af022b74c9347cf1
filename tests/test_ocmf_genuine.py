"""The genuine receipts of the meter: what they say, and which of them verify."""

from __future__ import annotations

import html
import json
import re
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf import Outcome, Receipt, find_tuple, parse, public_key_der_hex, verify
from tests.support import shared as shared_folder
from tests.support.shared import shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def of_2025() -> tuple[str, str]:
    """Tuple and key."""
    key = json.loads(shared("device/publickey.json").read_text())["PK"]
    return shared("receipts/iem-dcr-2025-unpadded-der.ocmf").read_text(), key


def of_xml(name: str) -> tuple[str, str]:
    """Tuple and key of a transparency file."""
    xml = shared(f"receipts/{name}").read_text()
    data = re.search(r"<signedData[^>]*>(.*?)</signedData>", xml, re.DOTALL)
    key = re.search(r"<publicKey[^>]*>(.*?)</publicKey>", xml, re.DOTALL)
    assert data is not None
    assert key is not None
    return html.unescape(data[1]), key[1]


def outcome(receipt: Receipt, key: str) -> Outcome:
    return verify(receipt, key).outcome


def test_2025_unpadded_der() -> None:
    text, key = of_2025()
    receipt = parse(text)
    assert outcome(receipt, key) is Outcome.VALID
    assert receipt.text == text.strip()
    assert receipt.signed.decode() == receipt.text.split("|")[1]
    written = json.loads(receipt.text.split("|")[1])
    assert receipt.payload == written
    assert written["PG"]
    assert (receipt.pagination, receipt.meter_serial) == (written["PG"], written["MS"])
    assert receipt.identification == written["ID"]
    first, last = written["RD"]
    assert [reading.TX for reading in receipt.readings] == ["B", "E"]
    assert (receipt.begin, receipt.end) == receipt.readings
    assert receipt.energy_wh == 1000 * (Decimal(last["RV"]) - Decimal(first["RV"]))
    begin = receipt.readings[0]
    assert (Decimal(first["RV"]), "G", "1-b:1.8.e", "kWh", "DC") == (begin.RV, begin.ST, begin.RI, begin.RU, begin.RT)
    assert begin.TM is not None
    assert begin.TM.instant.isoformat().startswith(first["TM"][:19])
    assert (begin.TM.sync, begin.TM.instant.utcoffset()) == (first["TM"][-1], timedelta(hours=2))


def test_2025_key_is_returned_unchanged() -> None:
    _, key = of_2025()
    assert public_key_der_hex(key) == key


def test_2025_with_any_bit_of_the_signed_part_flipped_fails() -> None:
    text, key = of_2025()
    receipt = parse(text)
    before, behind = b"OCMF|", receipt.text.encode()[len("OCMF|") + len(receipt.signed) :]
    assert before + receipt.signed + behind == receipt.text.encode()
    for at in range(len(receipt.signed)):
        for bit in range(8):
            signed = bytearray(receipt.signed)
            signed[at] ^= 1 << bit
            flipped = (before + bytes(signed) + behind).decode("utf-8", "surrogateescape")
            try:
                changed = parse(flipped)
            except ReceiptError:
                continue
            assert outcome(changed, key) is Outcome.INVALID, (at, bit)


@pytest.mark.parametrize("at", [0, 10, 31, 32, 63])
def test_2025_with_a_changed_signature_fails(at: int) -> None:
    text, key = of_2025()
    receipt = parse(text)
    data = str(receipt.signature["SD"])
    raw = bytearray.fromhex(data)
    raw[4 + at + (2 if at >= 32 else 0)] ^= 1
    assert outcome(parse(receipt.text.replace(data, raw.hex())), key) is Outcome.INVALID


def test_2025_with_another_meters_key_fails() -> None:
    text, _ = of_2025()
    _, other = of_xml("iem-dcr-2023-raw-signature.xml")
    assert outcome(parse(text), other) is Outcome.INVALID


def test_2023_raw_signature_and_raw_key() -> None:
    text, key = of_xml("iem-dcr-2023-raw-signature.xml")
    receipt = parse(text)
    der = public_key_der_hex(key)
    assert der == "3059301306072a8648ce3d020106082a8648ce3d03010703420004" + key.lower()
    assert outcome(receipt, der) is Outcome.VALID
    assert outcome(receipt, key) is Outcome.VALID
    assert [reading.TX for reading in receipt.readings] == ["B", "C", "E"]
    assert receipt.energy_wh == Decimal(0)


def test_2023_import_and_export_does_not_verify() -> None:
    text, key = of_xml("iem-dcr-2023-import-export-does-not-verify.xml")
    receipt = parse(text)
    assert outcome(receipt, key) is Outcome.INVALID
    assert [(reading.TX, reading.RI) for reading in receipt.readings] == [
        ("B", "1-b:1.8.e"), ("B", "1-b:2.8.e"), ("C", "1-b:1.8.e"),
        ("C", "1-b:2.8.e"), ("E", "1-b:1.8.e"), ("E", "1-b:2.8.e"),
    ]  # fmt: skip
    assert receipt.end == receipt.readings[4]
    assert receipt.readings[5].TM == receipt.readings[4].TM


@pytest.mark.parametrize("wrap", [
    lambda text: text,
    lambda text: f"\r\n\t {text}\r\n",
    lambda text: f'"{text}"',
    lambda text: f"{{{text}}}",
    json.dumps,
    lambda text: json.dumps({"OCMF": text}),
    lambda text: "\ufeff" + json.dumps({"receipts": [1, None, {"at": "v2", "OCMF|": text}]}, indent=2) + "\n\0",
])  # fmt: skip
def test_2025_verifies_out_of_every_wrapping(wrap: Callable[[str], str]) -> None:
    text, key = of_2025()
    wrapped = wrap(text.strip())
    assert find_tuple(wrapped) == text.strip()
    assert outcome(parse(wrapped), key) is Outcome.VALID


def test_without_the_shared_folder_a_test_is_skipped_or_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_folder, "SHARED", tmp_path / "shared")
    monkeypatch.delenv("IEM_DCR_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception):
        shared("receipts")
    monkeypatch.setenv("IEM_DCR_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception):
        shared("receipts")
