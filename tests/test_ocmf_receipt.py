"""Reading receipts: any text becomes a receipt or a ReceiptError, and what a receipt says is what its tuple says."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf import Reading, find_tuple, parse
from iem_dcr.ocmf.verdict import Judgement, verdict_on
from tests.support.any_json import json_values
from tests.support.ocmf_signing import BEGIN, CurveSigner, payload

END = {"TM": "2024-10-27T02:45:00,250+0100 S", "TX": "E", "RV": "00000020.125"}


def tuple_of(*readings: object) -> str:
    about = {"MS": "1TEST0001", "ID": "04A1|B2", "PG": "T7", "TT": "0,42 €/kWh | night"}
    return f"OCMF|{payload(*readings, **about)}|{json.dumps({'SD': '00'})}"


TUPLE = tuple_of(BEGIN, END)
any_text = st.text(st.characters(exclude_categories=()))
any_json = json_values | st.lists(st.floats(), max_size=4)
reading_values = st.sampled_from([
    "B", "E", "P", "G", "1-b:1.8.e", "1-b:2.8.e", "1-0:1.8.0", "kWh", "Wh", "00000012.500", "9" * 40, "1e99", "-0",
    "2024-10-27T02:30:00,125+0200 S", "9999-12-31T23:59:59,999-2359 U", 12, -0.5, 1e300,
])  # fmt: skip
rows = st.lists(
    st.dictionaries(st.sampled_from(Reading._fields), reading_values | any_json, max_size=8) | any_json,
    max_size=6,
)


def try_parse(text: str) -> str | None:
    """Read everything that a text offers as a receipt; tell why it is none where it is refused."""
    find_tuple(text)
    refused = ""
    try:
        receipt = parse(text)
    except ReceiptError as error:
        refused = str(error)
    assert refused.isprintable()
    assert len(refused) < 500
    if refused:
        return refused
    for name in ("pagination", "meter_serial", "identification", "algorithm", "begin", "end", "energy_wh"):
        getattr(receipt, name)
    assert receipt.text.encode().startswith(b"OCMF|" + receipt.signed + b"|")
    assert hash(receipt) == hash(receipt)
    assert find_tuple(receipt.text) == receipt.text
    assert parse(receipt.text) == receipt
    return None


@given(any_text, any_json, any_json)
def test_any_text_and_sections_of_any_json_are_a_receipt_or_refused(text: str, data: object, signature: object) -> None:
    for whole in (text, f"OCMF|{text}", f'OCMF|{{"FV":"{text}"}}|{{"SD":"{text}"}}'):
        try_parse(whole)
    try_parse(f"OCMF|{json.dumps(data)}|{json.dumps(signature)}")


@given(st.lists(st.tuples(st.integers(0, len(TUPLE)), st.integers(0, 5), any_text | st.sampled_from('|{}[]",\\')),
                min_size=1, max_size=6))  # fmt: skip
def test_mutated_tuples_are_receipts_or_refused(edits: list[tuple[int, int, str]]) -> None:
    text = TUPLE
    for at, cut, put in edits:
        text = text[:at] + put + text[at + cut :]
    try_parse(text)


@given(rows)
def test_readings_of_anything_are_read(rd: list[object]) -> None:
    text = f"OCMF|{json.dumps({'RD': rd})}|{{}}"
    if try_parse(text) is None:
        assert len(parse(text).readings) == len(rd)


@given(any_text, st.integers(1, 4))
def test_a_tuple_is_found_in_json_as_it_is(text: str, depth: int) -> None:
    whole = f'OCMF| {{"TT":{json.dumps(text)}}}\n|\t{{"SD":""}}'
    wrapper: object = whole
    for level in range(depth):
        wrapper = {"a": level, "b": [wrapper]} if level % 2 else [wrapper]
    assert find_tuple(json.dumps(wrapper)) == whole
    assert find_tuple(f'  "{whole}"}}') == whole


def test_what_a_receipt_says() -> None:
    receipt = parse(f" {TUPLE}\n")
    assert receipt.text == TUPLE
    assert receipt.signed == TUPLE.removeprefix("OCMF|").removesuffix('|{"SD": "00"}').encode()
    assert receipt.payload["TT"] == "0,42 €/kWh | night"
    assert (receipt.pagination, receipt.meter_serial, receipt.identification) == ("T7", "1TEST0001", "04A1|B2")
    assert receipt.algorithm == "ECDSA-secp256r1-SHA256"
    assert receipt.energy_wh == Decimal(7625)


def test_omitted_fields_are_those_of_the_reading_before_but_for_unreadable_ones() -> None:
    begin, end = parse(TUPLE).readings
    assert end == begin._replace(TM=end.TM, TX="E", RV=Decimal("20.125"))
    assert begin.TM is not None
    assert end.TM is not None
    assert (end.TM.instant - begin.TM.instant).total_seconds() == 75 * 60 + 0.125
    assert parse(tuple_of(BEGIN, None, {"TX": "E"})).readings[1:] == (Reading(), Reading(TX="E"))
    odd = {"TM": "yesterday", "TX": 5, "RV": "NaN", "RU": ["kWh"], "ST": "\ud800"}
    reading = parse(f"OCMF|{json.dumps({'RD': [BEGIN, odd]})}|{{}}").readings[1]
    assert reading == Reading(RI="1-b:1.8.e", RT="DC")


@pytest.mark.parametrize("tx", ["E", "L", "R", "A", "P"])
def test_the_last_ending_reading_of_the_import_register_is_the_end(tx: str) -> None:
    receipt = parse(tuple_of(BEGIN, {"TX": "C", "RV": 13}, {"TX": "E", "RV": 14}, {"TX": tx, "RV": 15}, {"TX": "S"}))
    assert receipt.end == receipt.readings[3]
    assert receipt.energy_wh == Decimal(2500)
    export = {"RI": "1-b:2.8.e", "RV": "99.000"}
    receipt = parse(tuple_of(BEGIN | export, BEGIN, BEGIN | END | {"TX": tx}, export))
    assert (receipt.begin, receipt.end, receipt.energy_wh) == (*receipt.readings[1:3], Decimal(7625))


@pytest.mark.parametrize(("register", "counts"), [
    ("1-b:1.8.e", True), ("1-0:1.8.0", True), ("01-00:01.08.00.FF", True), ("1-0:1.8.0*255", True), ("1.8.0", True),
    ("1-0:1.8", True), (" 1-0:1.8.0", True), ("1-0:B2.8.0", True), ("1-0:C2.8.0", False), ("2.8.0", False),
    ("1-b:2.8.e", False), ("1-0:21.8.0", False), ("1-0:1.7.0", False), ("7-0:1.8.0", False),
    ("transaction_1-b:1.8.e", False), ("", False),
])  # fmt: skip
def test_only_registers_of_import_count_as_import(*, register: str, counts: bool) -> None:
    receipt = parse(tuple_of(BEGIN | {"RI": register}, END))
    assert receipt.energy_wh == (Decimal(7625) if counts else None)
    assert (receipt.begin is None) is not counts


@pytest.mark.parametrize(("begin", "end", "energy_wh"), [
    ({"RV": 0.1}, {"RV": 0.3}, Decimal(200)),
    ({"RV": "7", "RU": "Wh"}, {"RV": "8.250"}, Decimal("1.25")),
    ({"RV": "0.999"}, {"RV": "1500", "RU": "Wh"}, Decimal(501)),
    ({"RV": "1" + "0" * 39}, {"RV": "1" + "0" * 38 + "1." + "0" * 39 + "1"}, Decimal("1000." + "0" * 36 + "1")),
    ({"RV": "20.125"}, {"RV": "12.5"}, Decimal(-7625)),
    ({"RU": "mOhm"}, {}, None),
    ({"RV": None}, {"RV": "1"}, None),
    ({"RV": True}, {"RV": "1"}, None),
    ({"RV": "1"}, {"RV": "1,5"}, None),
    ({"RV": "1"}, {"RV": "9" * 41}, None),
    ({"RV": "1"}, {"RV": "\u0661"}, None),
    ({"TX": "C"}, {}, None),
    ({}, {"TX": "C"}, None),
    ({"RI": "1-0:1.8.1"}, {"RI": "1-0:1.8.2"}, None),
])  # fmt: skip
def test_energy_is_the_exact_difference(
    begin: dict[str, object], end: dict[str, object], energy_wh: Decimal | None
) -> None:
    assert parse(tuple_of(BEGIN | begin, END | end)).energy_wh == energy_wh


def test_fields_that_are_no_strings_are_none() -> None:
    receipt = parse('OCMF|{"PG":4,"MS":null,"ID":["x"],"RD":{"TX":"B"}}|{"SA":1}')
    assert (receipt.pagination, receipt.meter_serial, receipt.identification) == (None, None, None)
    assert receipt.algorithm is None
    assert receipt.readings == ()
    assert (receipt.begin, receipt.end, receipt.energy_wh) == (None, None, None)


@pytest.mark.parametrize(("text", "read"), [
    ('OCMF|{"PG":"T1","P\\u0047":"T2"}|{}', {"PG": "T2"}), ('OCMF|{"RD":[{"RV":1,"RV":2}]}|{}', {"RD": [{"RV": 2}]}),
])  # fmt: skip
def test_of_keys_given_twice_the_last_counts(text: str, read: dict[str, object]) -> None:
    assert parse(text).payload == read


def test_white_space_and_control_characters_are_signed_as_they_are() -> None:
    receipt = parse('OCMF| {"PG":"T1",\r\n\t"TT":"a\tb\x01"}\n|\n{"SD":\t"00"} \n')
    assert receipt.signed == b' {"PG":"T1",\r\n\t"TT":"a\tb\x01"}\n'
    assert receipt.text.endswith('{"SD":\t"00"}')
    assert receipt.payload["TT"] == "a\tb\x01"


@pytest.mark.parametrize(("text", "says"), [
    *((text, "no 'OCMF|'") for text in ("", "{}", '{"ocmf":"none"}')), ("OCMF|", "payload section is not JSON"),
    ("OCMF|[]|{}", "payload section is not a JSON object"), ("OCMF|{}", "no signature section"),
    ("OCMF|{}{}", "no signature section"), ("OCMF|{}|", "signature section is not JSON"),
    ('OCMF|{}|"{}"', "signature section is not a JSON object"), (TUPLE[:-1], "signature section is not JSON"),
    (TUPLE[:60], "payload section is not JSON"), ('OCMF|{"RV":NaN}|{}', "NaN"),
    ('OCMF|{"RV":-Infinity}|{}', "-Infinity"), ('OCMF|{"ID":"\ud800"}|{}', "surrogate"),
    ('OCMF|{}|{"SD":"\udfff"}', "surrogate"), (f'OCMF|{{"RV":{"9" * 5000}}}|{{}}', "too large"),
    (f'OCMF|{{"RV":1e{"9" * 30}}}|{{}}', "too large"),
    *((f'OCMF|{{"RV":{number}}}|{{}}', "not JSON") for number in
      ("1.2.3", ".5", "5.e", "007", "+1", "1_0")),
], ids=range(23))  # fmt: skip
def test_what_is_no_tuple_is_refused_with_its_reason(text: str, says: str) -> None:
    assert says in (try_parse(text) or "")


# --- made to do harm ---

SIGNER = CurveSigner()
SIGNED = payload(BEGIN, {"TX": "E"})
HARMLESS = SIGNER.tuple_of(SIGNED)
MEGABYTES = 10_000_000


def verdict_of(text: str) -> Judgement | None:
    """What is made of a text, in words that are fit to be printed; None where it is no receipt."""
    if try_parse(text) is not None:
        return None
    verdict = verdict_on([parse(text)], SIGNER.spki)
    for found in verdict.findings:
        assert found.text.isprintable()
        assert len(found.text) < 500
    return verdict.judgement


def with_rd(rd: str) -> str:
    return f'OCMF|{{"FV":"1.0","PG":"T1","RD":{rd}}}|{{"SD":"3006020101020101"}}'


@pytest.mark.parametrize("text", [
    "[" * 10_000 + '"OCMF|{}|{}"' + "]" * 10_000, "[" * MEGABYTES, "OCMF|" * 2_000_000,
    'OCMF|{"a":"' * 1_000_000, 'OCMF|{"TT":"' + "x" * MEGABYTES + '"}|{}', json.dumps(["OCMF|{"] * 50_000),
    'OCMF|{"RV":0.' + "7" * MEGABYTES + "}|{}",
    "OCMF|{" + ",".join(f'"{n}":{n}' for n in range(50_000)) + ',"49999":0}|{}',
    'OCMF|{"RD":' + "[" * 900 + "]" * 900 + "}|" + '{"SA":' + "[" * 900 + "]" * 900 + "}",
    with_rd("[" + ",".join(["{}"] * 200_000) + "]"),
    with_rd("[" + ",".join([json.dumps({"TX": "B", "RI": f"1-0:1.8.{n}", "RV": n}) for n in range(20_000)]) + "]"),
    with_rd('[{"RV":1e999999,"TM":"' + "1" * MEGABYTES + '"},{"RV":-1e-999999,"RI":"' + "1" * MEGABYTES + '"}]'),
    with_rd('[{"TX":"B","RI":"1-b:1.8.e","RV":' + "9" * 4000 + '},{"TX":"E","RV":' + "9" * 4299 + "}]"),
    with_rd("[]").replace('"T1"', '"T' + "1" * MEGABYTES + '"'), with_rd("[]").replace('"1.0"', "1e999999"),
    with_rd("[]").replace('"1.0"', '"' + "1" * MEGABYTES + '"'),
    with_rd('[{"RV":"\\ud800","RI":"\\udfff","TM":"\\ud800 \\ud800","TX":"\\ud800"}]'),
    HARMLESS.replace('"SD": "', '"SD": "' + "30" * (MEGABYTES // 2)),
    HARMLESS.replace('"SA": "', '"SA": "' + "x" * MEGABYTES),
    HARMLESS.replace('{"SA"', '{"SE": "base64", "SA"').replace('"SD": "', '"SD": "' + "A" * MEGABYTES),
], ids=lambda text: f"{text[:40]}…{len(text)}")  # fmt: skip
def test_large_deep_and_odd_texts_have_an_outcome(text: str) -> None:
    assert verdict_of(text) in {None, Judgement.INVALID, Judgement.NOT_CHECKED}


@given(st.integers(0, len(HARMLESS) - 1), st.characters(exclude_categories=()))
def test_any_character_put_in_place_of_another_is_noticed(at: int, character: str) -> None:
    text = HARMLESS[:at] + character + HARMLESS[at + 1 :]
    if verdict_of(text) in {Judgement.ACCEPTED, Judgement.REFUSED}:
        assert parse(text).signed == SIGNED.encode()


WRAPPED = {"about": "begins with OCMF|", "cut": TUPLE[:50], "data": {"first": TUPLE, "next": "OCMF|{}|{}"}}


@pytest.mark.parametrize(("text", "found"), [
    (f"body: {TUPLE[:-4]} \n", TUPLE[:-4]), (json.dumps([TUPLE[:-4], TUPLE[:-8]]), TUPLE[:-4]),
    (json.dumps(WRAPPED), TUPLE),
    (f"{TUPLE}\n{tuple_of()}", TUPLE),
    *((text, None) for text in ("", "42", "null", '"no tuple"', '{"OCMF|": 1}', "OCMF", "ocmf|{}|{}")),
], ids=["damaged", "damaged in a list", "the first whole one", "the first of two", *range(7)])  # fmt: skip
def test_the_first_tuple_of_a_text_is_found(text: str, found: str | None) -> None:
    assert find_tuple(text) == found
