"""Verdicts: what signatures and findings make of a transaction, and the energy of each register."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from iem_dcr.ocmf import Outcome, Verification, parse
from iem_dcr.ocmf.keys import SECP256R1, SECP384R1
from iem_dcr.ocmf.verdict import Judgement, judge, verdict_on
from tests.support.ocmf_signing import CurveSigner

Row = dict[str, object]
SIGNER = CurveSigner(SECP256R1)
BEGIN: Row = {
    "TM": "2024-10-27T02:30:00,125+0200 S", "TX": "B", "ST": "G", "RV": 12.5, "RI": "1-b:1.8.e", "RU": "kWh",
}  # fmt: skip
END: Row = BEGIN | {"TM": "2024-10-27T02:45:00,250+0100 S", "TX": "E", "RV": 20.125}
EXPORT: Row = {"RI": "1-b:2.8.e", "RV": 7}


def signed(*rows: Row, signer: CurveSigner = SIGNER, pagination: str = "T1", **fields: object) -> str:
    return signer.tuple_of(json.dumps({"FV": "1.0", "MS": "M1", "PG": pagination, "RD": list(rows)} | fields))


def test_a_good_transaction_is_accepted() -> None:
    verdict = verdict_on([parse(signed(BEGIN, END))], SIGNER.spki)
    assert verdict.judgement is Judgement.ACCEPTED
    assert verdict.findings == ()
    assert verdict.energy_wh == 7625
    assert verdict.deciding is not None
    assert verdict.deciding.begin == parse(signed(BEGIN)).readings[0].TM
    assert verdict.deciding.end == parse(signed(END)).readings[0].TM


def test_begin_and_end_apart_are_accepted_together() -> None:
    pair = [parse(signed(BEGIN)), parse(signed(END, pagination="T2"))]
    verdict = verdict_on(pair, SIGNER.spki)
    assert (verdict.judgement, verdict.energy_wh, verdict.findings) == (Judgement.ACCEPTED, Decimal(7625), ())
    assert [one.outcome for one in verdict.verifications] == [Outcome.VALID, Outcome.VALID]
    alone = verdict_on(pair[:1], SIGNER.spki)
    assert (alone.judgement, alone.energy_wh) == (Judgement.ACCEPTED, None)
    assert [one.code for one in alone.findings] == ["transaction-incomplete"]


def test_an_error_refuses_and_a_warning_does_not() -> None:
    assert verdict_on([parse(signed(BEGIN, END, IL="UNKNOWN"))], SIGNER.spki).judgement is Judgement.REFUSED
    assert verdict_on([parse(signed(BEGIN, END, TT="€"))], SIGNER.spki).judgement is Judgement.ACCEPTED


def test_a_signature_comes_before_every_finding() -> None:
    text = signed(BEGIN, END, IL="UNKNOWN")
    assert verdict_on([parse(text.replace("UNKNOWN", "SECURES"))], SIGNER.spki).judgement is Judgement.INVALID
    assert verdict_on([parse(text)], "").judgement is Judgement.NOT_CHECKED
    other = CurveSigner(SECP384R1)
    mixed = [parse(signed(BEGIN)), parse(signed(END, signer=other, pagination="T2"))]
    assert verdict_on(mixed, SIGNER.spki).judgement is Judgement.NOT_CHECKED


def test_import_decides_and_export_stands_beside_it() -> None:
    falling = EXPORT | {"RV": 6}
    verdict = verdict_on([parse(signed(BEGIN, EXPORT, END, falling))], SIGNER.spki)
    assert (verdict.judgement, verdict.energy_wh) == (Judgement.ACCEPTED, Decimal(7625))
    assert [(one.register, one.direction, one.energy_wh, one.decides) for one in verdict.energies] == [
        ("1-b:1.8.e", "import", Decimal(7625), True), ("1-b:2.8.e", "export", Decimal(-1000), False),
    ]  # fmt: skip
    assert [found.code for found in verdict.findings] == ["register-falling-between"]


def test_the_register_without_the_cables_loss_decides() -> None:
    rows = [row | {"RI": register} for row in (BEGIN, END) for register in ("1-0:B2.8.0", "1-0:B3.8.0")]
    verdict = verdict_on([parse(signed(*rows))], SIGNER.spki)
    assert [(one.register, one.decides) for one in verdict.energies] == [("1-0:B2.8.0", False), ("1-0:B3.8.0", True)]
    assert verdict.energy_wh == 7625


def test_import_decides_where_export_is_judged_too() -> None:
    rows = [row | {"RI": register} for row in (BEGIN, END) for register in ("1-0:B2.8.0", "1-0:C2.8.0")]
    verdict = verdict_on([parse(signed(*rows))], SIGNER.spki)
    assert [(one.register, one.decides) for one in verdict.energies] == [("1-0:B2.8.0", True), ("1-0:C2.8.0", False)]
    assert verdict.energy_wh == 7625


def test_a_discharge_is_judged_by_its_export() -> None:
    verdict = verdict_on([parse(signed(BEGIN | {"RI": "1-0:C2.8.0"}, END | {"RI": "1-0:C2.8.0"}))], SIGNER.spki)
    assert (verdict.judgement, verdict.energy_wh) == (Judgement.ACCEPTED, Decimal(7625))
    assert verdict.energies[0].direction == "export"


def test_energies_are_exact_across_units() -> None:
    verdict = verdict_on([parse(signed(BEGIN | {"RV": "0.1"}, END | {"RV": "100.3", "RU": "Wh"}))], SIGNER.spki)
    assert verdict.energy_wh == Decimal("0.3")


def test_two_registers_that_decide_have_no_one_energy() -> None:
    tariff = {"RI": "1-0:1.8.2"}
    verdict = verdict_on([parse(signed(BEGIN, BEGIN | tariff, END, END | tariff))], SIGNER.spki)
    assert (verdict.deciding, verdict.energy_wh, verdict.judgement) == (None, None, Judgement.REFUSED)
    assert [one.energy_wh for one in verdict.energies] == [7625, 7625]


@pytest.mark.parametrize("verifications", [0, 2])
def test_every_receipt_has_its_verification(verifications: int) -> None:
    with pytest.raises(ValueError, match="1 receipts"):
        judge([parse(signed(BEGIN, END))], [Verification(Outcome.VALID, "")] * verifications)
    with pytest.raises(ValueError, match="0 receipts"):
        judge([], [])
