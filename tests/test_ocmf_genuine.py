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
from iem_dcr.ocmf.keys import SECP256R1, curve_of
from iem_dcr.ocmf.rules import Severity
from iem_dcr.ocmf.signature import signature_numbers
from iem_dcr.ocmf.verdict import Judgement, verdict_on
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


def verifying() -> list[tuple[str, str]]:
    return [of_2025(), of_xml("iem-dcr-2023-raw-signature.xml")]


@pytest.mark.parametrize("which", [0, 1])
def test_no_bit_of_a_receipt_can_be_flipped(which: int) -> None:
    """What still verifies says the same: hex of another letter case, or SA spelled otherwise."""
    text, key = verifying()[which]
    receipt = parse(text)
    whole = receipt.text.encode()
    still_valid = []
    for at in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            try:
                changed = parse(flipped.decode("utf-8", "surrogateescape"))
            except ReceiptError:
                continue
            if outcome(changed, key) is Outcome.VALID:
                still_valid.append((at, bit))
                assert changed.signed == receipt.signed
                assert signature_numbers(changed.signature, SECP256R1) == signature_numbers(
                    receipt.signature, SECP256R1
                )
                assert curve_of(changed.algorithm) is SECP256R1
    behind = len("OCMF|") + len(receipt.signed)
    letters = {behind + at for at, letter in enumerate(receipt.text[behind:]) if letter.isalpha()}
    assert {at for at, _ in still_valid} <= letters


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


def judged(text: str, key: str) -> tuple[Judgement, set[str]]:
    verdict = verdict_on([parse(text)], key)
    return verdict.judgement, {found.code for found in verdict.findings if found.severity is Severity.ERROR}


def test_2025_is_accepted() -> None:
    text, key = of_2025()
    assert judged(text, key) == (Judgement.ACCEPTED, set())
    verdict = verdict_on([parse(text)], key)
    assert verdict.energy_wh == 0
    assert [found.code for found in verdict.findings] == ["time-not-synchronised"] * 2


def test_2023_is_refused_for_its_errors_and_its_raw_signature() -> None:
    text, key = of_xml("iem-dcr-2023-raw-signature.xml")
    assert judged(text, key) == (Judgement.REFUSED, {"signature-form", "status-not-good", "energy-flag"})


def test_2023_import_and_export_has_one_begin_per_register() -> None:
    text, key = of_xml("iem-dcr-2023-import-export-does-not-verify.xml")
    assert judged(text, key) == (Judgement.INVALID, {"signature-form", "status-not-good", "energy-flag"})
    energies = verdict_on([parse(text)], key).energies
    assert [(energy.direction, energy.energy_wh, energy.decides) for energy in energies] == [
        ("import", Decimal(0), True), ("export", Decimal(0), False),
    ]  # fmt: skip


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
