"""The genuine receipts of the meter: what they say, and which of them verify. Some checks take simulated ones too."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf import Outcome, parse, public_key_der_hex, verify
from iem_dcr.ocmf.import_formats import read_document
from iem_dcr.ocmf.keys import SECP256R1, curve_of
from iem_dcr.ocmf.rules import Severity
from iem_dcr.ocmf.signature import signature_numbers
from iem_dcr.ocmf.verdict import Judgement, Verdict, verdict_on
from tests.support import shared as shared_folder
from tests.support.shared import shared
from tests.support.simulated import Bench

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def of_2025() -> tuple[str, str]:
    """Tuple and key."""
    (found,) = read_document(shared("receipts/iem-dcr-2025-unpadded-der.ocmf").read_bytes())
    return found.text, json.loads(shared("device/publickey.json").read_text())["PK"]


def of_2023(name: str = "raw-signature") -> tuple[str, str]:
    """Tuple and key of a transparency file."""
    (found,) = read_document(shared(f"receipts/iem-dcr-2023-{name}.xml").read_bytes())
    return found.text, found.key


def simulated_unpadded() -> tuple[str, str]:
    """Tuple and key of a simulated meter, with a signature in the form of 2025."""
    bench = Bench()
    return bench.session().text, bench.json("/publickey")["PK"]


def simulated_raw() -> tuple[str, str]:
    """Tuple and key of another simulated meter, with a signature in the form of 2023."""
    bench = Bench(private_key=78, signature_encoding="raw", public_key_form="raw")
    return bench.session().text, bench.json("/publickey")["PK"]


def errors_of(verdict: Verdict) -> set[str]:
    return {found.code for found in verdict.findings if found.severity is Severity.ERROR}


def test_the_receipt_of_2025_verifies_and_says_what_is_written() -> None:
    text, key = of_2025()
    receipt = parse(text)
    written = json.loads(text.split("|")[1])
    first, last = written["RD"]
    assert public_key_der_hex(key) == key
    assert receipt.text == shared("receipts/iem-dcr-2025-unpadded-der.ocmf").read_text().strip()
    assert (receipt.signed.decode(), receipt.payload) == (text.split("|")[1], written)
    about = receipt.pagination, receipt.meter_serial, receipt.identification
    assert about == (written["PG"], written["MS"], written["ID"])
    assert [reading.TX for reading in receipt.readings] == ["B", "E"]
    assert (receipt.begin, receipt.end) == receipt.readings
    assert receipt.energy_wh == 1000 * (Decimal(last["RV"]) - Decimal(first["RV"]))
    begin = receipt.readings[0]
    assert (Decimal(first["RV"]), "G", "1-b:1.8.e", "kWh", "DC") == (begin.RV, begin.ST, begin.RI, begin.RU, begin.RT)
    assert begin.TM is not None
    assert begin.TM.instant.isoformat().startswith(first["TM"][:19])
    assert (begin.TM.sync, begin.TM.instant.utcoffset()) == (first["TM"][-1], timedelta(hours=2))
    verdict = verdict_on([receipt], key)
    assert (verdict.judgement, verdict.energy_wh) == (Judgement.ACCEPTED, Decimal(0))
    assert [found.code for found in verdict.findings] == ["time-not-synchronised"] * 2


@pytest.mark.parametrize("made", [of_2025, of_2023, simulated_unpadded, simulated_raw])
def test_no_bit_of_a_receipt_can_be_flipped(made: Callable[[], tuple[str, str]]) -> None:
    """What still verifies says the same: hex of another letter case, or SA spelled otherwise."""
    text, key = made()
    receipt = parse(text)
    whole = receipt.text.encode()
    behind = len("OCMF|") + len(receipt.signed)
    letters = {behind + at for at, letter in enumerate(receipt.text[behind:]) if letter.isalpha()}
    for at in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            with suppress(ReceiptError):
                changed = parse(flipped.decode("utf-8", "surrogateescape"))
                if verify(changed, key).outcome is Outcome.VALID:
                    assert at in letters
                    assert changed.signed == receipt.signed
                    numbers = [signature_numbers(one.signature, SECP256R1) for one in (changed, receipt)]
                    assert numbers[0] == numbers[1]
                    assert curve_of(changed.algorithm) is SECP256R1


def test_the_receipt_of_2023_verifies_and_is_refused_for_its_errors_and_its_raw_signature() -> None:
    text, key = of_2023()
    receipt = parse(text)
    der = public_key_der_hex(key)
    assert der == "3059301306072a8648ce3d020106082a8648ce3d03010703420004" + key.lower()
    assert {verify(receipt, one).outcome for one in (der, key)} == {Outcome.VALID}
    assert [reading.TX for reading in receipt.readings] == ["B", "C", "E"]
    assert receipt.energy_wh == Decimal(0)
    verdict = verdict_on([receipt], key)
    assert verdict.judgement is Judgement.REFUSED
    assert errors_of(verdict) == {"signature-form", "status-not-good", "energy-flag"}


def test_the_receipt_of_2023_with_import_and_export_does_not_verify_and_has_one_begin_per_register() -> None:
    text, key = of_2023("import-export-does-not-verify")
    receipt = parse(text)
    registers = "1-b:1.8.e", "1-b:2.8.e"
    assert [(reading.TX, reading.RI) for reading in receipt.readings] == [(TX, RI) for TX in "BCE" for RI in registers]
    assert receipt.end == receipt.readings[4]
    assert receipt.readings[5].TM == receipt.readings[4].TM
    verdict = verdict_on([receipt], key)
    assert verdict.judgement is Judgement.INVALID
    assert errors_of(verdict) == {"signature-form", "status-not-good", "energy-flag"}
    assert [(energy.direction, energy.energy_wh, energy.decides) for energy in verdict.energies] == [
        ("import", Decimal(0), True), ("export", Decimal(0), False),
    ]  # fmt: skip


def test_without_the_shared_folder_a_test_is_skipped_or_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_folder, "SHARED", tmp_path / "shared")
    monkeypatch.delenv("IEM_DCR_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception):
        shared("receipts")
    monkeypatch.setenv("IEM_DCR_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception):
        shared("receipts")
