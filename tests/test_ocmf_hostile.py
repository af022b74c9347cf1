"""Receipts made to do harm: each gets an outcome, in bounded time and memory, and never a traceback."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf import Outcome, Receipt, parse
from iem_dcr.ocmf.examination import examine
from iem_dcr.ocmf.keys import CURVES, SECP256R1
from iem_dcr.ocmf.verdict import Judgement, verdict_on
from tests.support.ocmf_signing import CurveSigner
from tests.test_ocmf_findings import examine_set

SIGNER = CurveSigner(SECP256R1)
PAYLOAD = (
    '{"FV":"1.0","MS":"M1","PG":"T1","RD":[{"TM":"2024-10-27T02:30:00,125+0200 S","TX":"B","ST":"G","RV":1,'
    '"RI":"1-b:1.8.e","RU":"kWh"},{"TX":"E"}]}'
)
TUPLE = SIGNER.tuple_of(PAYLOAD)
MEGABYTES = 10_000_000


def receipt_of(text: str) -> Receipt | None:
    refused = ""
    try:
        return parse(text)
    except ReceiptError as error:
        refused = str(error)
    assert refused.isprintable()
    assert len(refused) < 500
    return None


def taken_in(text: str) -> None:
    receipt = receipt_of(text)
    if receipt is not None:
        verdict = verdict_on([receipt], SIGNER.spki)
        assert verdict.judgement in {Judgement.INVALID, Judgement.NOT_CHECKED}
        for found in verdict.findings:
            assert found.text.isprintable()
            assert len(found.text) < 500


def with_rd(rd: str) -> str:
    return f'OCMF|{{"FV":"1.0","PG":"T1","RD":{rd}}}|{{"SD":"3006020101020101"}}'


@pytest.mark.parametrize("text", [
    with_rd("[" + ",".join(["{}"] * 1_000_000) + "]"),
    with_rd("[" + ",".join([json.dumps({"TX": "B", "RI": f"1-0:1.8.{n}", "RV": n}) for n in range(100_000)]) + "]"),
    with_rd("[" * 900 + "]" * 900),
    with_rd("[" * 10_000 + "]" * 10_000),
    with_rd('[{"RV":1e999999,"TM":"' + "1" * MEGABYTES + '"},{"RV":-1e-999999,"RI":"' + "1" * MEGABYTES + '"}]'),
    with_rd('[{"TX":"B","RI":"1-b:1.8.e","RV":"' + "9" * MEGABYTES + '"},{"TX":"E"}]'),
    with_rd('[{"TX":"B","RI":"1-b:1.8.e","RV":' + "9" * 4000 + '},{"TX":"E","RV":' + "9" * 4299 + "}]"),
    with_rd('[{"RV":' + "[" * 800 + "]" * 800 + "}]"),
    with_rd("[]").replace('"T1"', '"T' + "1" * MEGABYTES + '"'),
    with_rd("[]").replace('"1.0"', "1e999999"),
    with_rd("[]").replace('"1.0"', '"' + "1" * MEGABYTES + '"'),
    with_rd("[]").replace('"1.0"', '{"a":' * 300 + "1" + "}" * 300),
    with_rd('[{"RV":"\\ud800","RI":"\\udfff","TM":"\\ud800 \\ud800","TX":"\\ud800"}]'),
    TUPLE.replace('"SD": "', '"SD": "' + "30" * (MEGABYTES // 2)),
    TUPLE.replace('"SA": "', '"SA": "' + "x" * MEGABYTES),
    TUPLE.replace('{"SA"', '{"SE": "base64", "SA"').replace('"SD": "', '"SD": "' + "A" * MEGABYTES),
    TUPLE[: -len('"}')] + "\\u0000" + '"}',
    "OCMF|" + PAYLOAD + "|" + '{"SD":"00",' * 1000,
    "|" * MEGABYTES,
], ids=lambda text: f"{text[:40]}…{len(text)}")  # fmt: skip
def test_large_deep_and_odd_receipts(text: str) -> None:
    taken_in(text)


def test_memory_stays_within_a_few_times_the_text() -> None:
    text = with_rd('[{"TX":"B","TT":"' + "x" * MEGABYTES + '"}]')
    tracemalloc.start()
    try:
        taken_in(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(text)


def test_the_readings_of_a_receipt_are_bounded() -> None:
    receipt = parse(with_rd("[" + ",".join(["{}"] * 100_000) + "]"))
    assert len(receipt.readings) == 10_000
    assert len(examine(receipt)) < 10_010


def test_a_set_of_many_receipts_is_examined() -> None:
    receipts = [parse(with_rd("[]").replace("T1", f"T{2 * n}")) for n in range(2_000)]
    gaps = [found for found in examine_set(receipts) if found.code == "pagination-gap"]
    assert len(gaps) == 1_999


@given(st.integers(0, len(TUPLE) - 1), st.characters(exclude_categories=()))
def test_any_character_put_in_place_of_another(at: int, character: str) -> None:
    receipt = receipt_of(TUPLE[:at] + character + TUPLE[at + 1 :])
    if receipt is not None and verdict_on([receipt], SIGNER.spki).judgement in {Judgement.ACCEPTED, Judgement.REFUSED}:
        assert receipt.signed == PAYLOAD.encode()


@given(st.sampled_from(CURVES), st.binary(max_size=210), st.sampled_from(["hex", "base64"]))
def test_any_signature_of_any_algorithm_has_an_outcome(curve: object, raw: bytes, encoding: str) -> None:
    section = {"SA": f"ECDSA-{getattr(curve, 'name', '')}-SHA256", "SE": encoding, "SD": raw.hex()}
    receipt = parse(f"OCMF|{PAYLOAD}|{json.dumps(section)}")
    for key in (raw.hex(), SIGNER.spki, "04" + raw.hex()):
        outcome = verdict_on([receipt], key).verifications[0].outcome
        assert outcome in {Outcome.INVALID, Outcome.NOT_CHECKED}
