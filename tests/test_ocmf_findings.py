"""Findings: a good transaction has none, and each thing that is wrong with it has its code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.ocmf import Receipt, parse
from iem_dcr.ocmf.examination import examine
from iem_dcr.ocmf.rules import FINDINGS, Finding, Report, Severity, finding
from iem_dcr.ocmf.sets import Counters, transactions_of
from tests.support.any_json import json_values
from tests.support.ocmf_signing import BEGIN, END, EXPORT, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Told = list[tuple[str, int | None, str]]
SD = "3006020101020101"
CHARGING: Row = BEGIN | {"TM": "2024-10-27T02:40:00,000+0200 S", "TX": "C", "RV": "00000013.000"}
PAYLOAD: Row = {
    "FV": "1.0", "GS": "1TEST0001", "MS": "1TEST0001", "IS": True, "IL": "HEARSAY", "IF": ["RFID_PLAIN"],
    "IT": "ISO14443", "ID": "04A1B2", "PG": "T7", "TT": "0,42 EUR/kWh",
}  # fmt: skip


def of(*rows: object, sd: object = SD, **fields: object) -> Receipt:
    payload = {name: value for name, value in (PAYLOAD | {"RD": list(rows)} | fields).items() if value != "absent"}
    return parse(f"OCMF|{json.dumps(payload, ensure_ascii=False)}|{json.dumps({'SD': sd})}")


def counted(receipts: Sequence[Receipt]) -> list[tuple[str, int | None, str]]:
    """The findings about the counters of a set, with the index of the receipt that each is about."""
    counters = Counters()
    for receipt in receipts:
        counters.add(Counters.entry_of(receipt))
    return [(one.code, one.receipt, one.text) for one in counters.findings()]


def again(receipt: Receipt, old: str, new: str) -> Receipt:
    """The receipt with something in its text put in place of another."""
    assert old in receipt.text
    return parse(receipt.text.replace(old, new, 1))


def without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def told(found: Iterable[Finding]) -> Told:
    return [(one.code, one.reading, one.field) for one in found]


GOOD = {
    "begin and end": of(BEGIN, END),
    "with a reading between": of(BEGIN, CHARGING, END),
    "FV 1.3 as a number": of(BEGIN, END, FV=1.3),
    "FV 0.1, and the longest texts": of(BEGIN, END, FV="0.1", TT="x" * 250, ID="x" * 40),
    "numbers and no T text": of(BEGIN | {"RV": 12.5}, END | {"RV": 12.5}, TT="absent", ID="absent"),
    "what both leave out": of(BEGIN, {"TM": END["TM"], "TX": "E", "RV": 13, "RI": BEGIN["RI"]}),
    "an end without a time of its own": of(BEGIN, without(END, "TM")),
    "an end at the time of its begin": of(BEGIN, END | {"TM": BEGIN["TM"]}),
    "export beside import": of(BEGIN, EXPORT, CHARGING, EXPORT, END, EXPORT),
    "export with TX of its own": of(BEGIN, BEGIN | EXPORT, END, END | EXPORT),
    "export first": of(BEGIN | EXPORT, BEGIN, END | EXPORT, END),
    "every level that is none of error": of(BEGIN, END, IL="NONE"),
    "an end of every kind": of(BEGIN, END | {"TX": "P"}),
    "register of OCMF": of(*(row | {"RI": "01-00:B2.08.00.FF"} for row in (BEGIN, END))),
    "compensated beside not": of(*(row | {"RI": f"1-0:{C}.8.0"} for row in (BEGIN, END) for C in ("9e", "98"))),
    "event counters of a newer version": of(BEGIN | {"EI": 1}, END | {"EI": 2}, FV="0.5"),
    "unpadded signature": of(BEGIN, END, sd="3044" + "0220" + "b3" + "11" * 31 + "0220" + "80" + "22" * 31),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_transaction_has_no_findings(name: str) -> None:
    assert told(examine(GOOD[name])) == []


def in_payload(code: str, *fields: tuple[str, object]) -> list[tuple[Receipt, Told]]:
    """Cases with one field of the payload otherwise; what is found is told at that field."""
    return [(of(BEGIN, END, **{name: value}), [(code, None, name.upper())]) for name, value in fields]


def at_end(code: str, *fields: tuple[str, object]) -> list[tuple[Receipt, Told]]:
    """Cases with one field of the end otherwise."""
    return [(of(BEGIN, END | {name: value}), [(code, 1, name)]) for name, value in fields]


CASES: list[tuple[Receipt, Told]] = [
    *in_payload("separator-in-text", *((name, "a|b") for name in ("TT", "ID", "CI", "CT"))),
    *in_payload("text-not-ascii", ("TT", "0,42 €")), *in_payload("text-too-long", ("TT", "x" * 251), ("ID", "x" * 41)),
    *in_payload("field-type", ("IF", "RFID_PLAIN"), ("IF", [[]]), ("IS", 1), ("GI", ["x"]), ("LC", "x"), ("LC", []),
                *((name, {"a": 1}) for name in (*PAYLOAD, "GI", "GV", "MV", "MM", "MF", "CF", "CT",
                                                                     "CI") if name not in ("FV", "MS", "PG"))),
    *in_payload("format-version", *(("FV", version) for version in ("1.4", "absent", "one", "0.01"))),
    *in_payload("pagination-missing", ("PG", "absent"), ("PG", "T")), *in_payload("pagination-form", ("PG", "T007")),
    *in_payload("meter-missing", ("MS", "absent")),
    *in_payload("identification-level", *(("IL", it) for it in ("MISMATCH", "INVALID", "OUTDATED", "UNKNOWN "))),
    *in_payload("signature-spelling", ("sd", "30 06\n020101 020101"), ("sd", "308106020101020101")),
    *at_end("field-type", ("RT", {})), *at_end("register-spelling", ("RI", "01-0b:01.8.0E*255")),
    *at_end("value-missing", ("RV", None)), *at_end("value-unreadable", ("RV", "1,5")),
    *at_end("register-falling", ("RV", "12.4999")), *at_end("time-falling", ("TM", "2024-10-27T02:30:00,124+0200 S")),
    *at_end("time-unreadable", ("TM", "yesterday S")), *at_end("time-flag-missing-at-end", ("TM", str(END["TM"])[:-2])),
    *at_end("status-not-good", ("ST", "M"), ("ST", ""), ("ST", 1)),
    (of(BEGIN, END | {"RU": "Wh", "RV": "20125"}), [("units-mixed", 1, "RU")]),
    (of(BEGIN, END, XX="a|b"), [("separator-in-text", None, "")]),
    (of(BEGIN, CHARGING, 5, END), [("field-type", 2, "RD")]),
    (again(of(BEGIN, END), '"PG": "T7"', '"PG": "T7", "PG": "T7"'), [("key-repeated", None, "PG")]),
    (again(of(BEGIN, END), '"ST": "G"', '"ST": "E", "ST": "G"'), [("key-repeated-within", None, "ST")]),
    (again(of(BEGIN, END), '{"SD"', '{"SD": "00", "SD"'), [("key-repeated-within", None, "SD")]),
    (of(BEGIN | {"RV": "  12.5 "}, END), [("number-form", 0, "RV")]),
    (of(BEGIN | {"RV": ".5"}, END | {"RV": "5."}), [("number-form", 0, "RV"), ("number-form", 1, "RV")]),
    (again(of(BEGIN, END), '{"SD"', '{"SA": null, "SD"'), [("signature-spelling", None, "SD")]),
    (again(of(BEGIN, END), '{"SD"', '{"SE": null, "SD"'), [("signature-spelling", None, "SD")]),
    (again(of(BEGIN, END), '{"SD"', '{"SM": [], "SD"'), [("field-type", None, "SM")]),
    (again(of(BEGIN, END), '{"SD"', '{"SE": "HEX", "SD"'), [("signature-encoding", None, "SE")]),
    (of(BEGIN, END, sd="11" * 64), [("signature-form", None, "SD")]),
    (of(BEGIN, END, sd="3044" + "0220" + "00" + "11" * 31 + "0220" + "22" * 32), [("signature-form", None, "SD")]),
    (of(BEGIN, END, sd="3044" + "0220" + "22" * 32 + "0220" + "ff80" + "11" * 30), [("signature-form", None, "SD")]),
    (of(BEGIN, END, sd="xyz"), [("signature-form", None, "SD")]),
    (of(BEGIN, END, PG=5), [("pagination-missing", None, "PG"), ("fiscal", None, "PG")]),
    (of(BEGIN, END, PG=12), [("pagination-form", None, "PG"), ("fiscal", None, "PG")]),
    (of(BEGIN, CHARGING, PG="F3"), [("fiscal", None, "PG")]),
    (of(BEGIN, END, FV="0.4", IS="MISMATCH"), [("identification-level", None, "IS")]),
    (of(), [("readings-missing", None, "RD"), ("transaction-incomplete", None, "TX")]),
    (of(RD=5), [("readings-missing", None, "RD"), ("transaction-incomplete", None, "TX")]),
    (of(BEGIN), [("transaction-incomplete", None, "TX")]),
    (of(END), [("transaction-incomplete", None, "TX")]),
    (of(BEGIN | EXPORT, END), [("begin-missing", None, "TX")]),
    (of(BEGIN, END | EXPORT), [("end-missing", None, "TX")]),
    (of(BEGIN, BEGIN, END), [("begin-repeated", 1, "TX")]),
    (of(BEGIN, END, END), [("end-repeated", 2, "TX")]),
    (of(BEGIN, END | {"RI": "1-0:1.8.0"}), [("registers-mixed", None, "RI")]),
    (of(BEGIN, BEGIN | {"RI": "1-0:1.8.2"}, END, END | {"RI": "1-0:1.8.2"}), [("registers-mixed", None, "RI")]),
    (of(BEGIN, without(END, "RI")), [("left-out", 1, "RI")]),
    (of(BEGIN, without(END, "RV")), [("left-out", 1, "RV")]),
    (of(BEGIN | EXPORT, without(BEGIN, "TM"), END), [("left-out", 1, "TM")]),
    (of(BEGIN | EXPORT, without(BEGIN, "TX"), END), [("left-out", 1, "TX")]),
    (of(BEGIN | EXPORT, without(BEGIN, "ST", "RU"), END), [("left-out", 1, "ST"), ("left-out", 1, "RU")]),
    (of(BEGIN, CHARGING | {"RI": "1-0:99.9.9"}, END), [("register-unknown", 1, "RI")]),
    (of(BEGIN, CHARGING | {"RI": "transaction"}, END), [("register-unknown", 1, "RI")]),
    (of(BEGIN, CHARGING | {"RV": "NaN"}, END), [("value-unreadable", 1, "RV")]),
    (of(without(BEGIN, "RU"), without(END, "RU")), [("unit-missing", 0, "RU")]),
    (of(BEGIN | {"RU": ""}, END | {"RU": ""}), [("unit-unknown", 0, "RU"), ("unit-unknown", 1, "RU")]),
    (of(BEGIN | {"RU": "MWh"}, END | {"RU": "MWh"}), [("unit-unknown", 0, "RU"), ("unit-unknown", 1, "RU")]),
    (of(BEGIN | {"RU": "Wh", "RV": "12500"}, END), [("units-mixed", 1, "RU"), ("register-falling", 1, "RV")]),
    (of(BEGIN, END | {"RU": "Wh"}), [("units-mixed", 1, "RU"), ("register-falling", 1, "RV")]),
    (of(BEGIN, CHARGING | {"RV": 5}, END), [("register-falling-between", 1, "RV")]),
    (of(BEGIN, BEGIN | EXPORT, END, END | EXPORT | {"RV": 6}), [("register-falling-between", 3, "RV")]),
    (of(BEGIN, CHARGING | {"TM": "2024-10-27T01:40:00,000+0200 S"}, END), [("time-falling-between", 1, "TM")]),
    (of(BEGIN | {"TM": "2024-10-27T05:30:00,125+02:00 S"}, END), [("time-falling", 1, "TM")]),
    (of(BEGIN | {"TM": "2024-10-27T05:30:00,125+0200 X"}, END),
     [("time-unreadable", 0, "TM"), ("time-not-synchronised", 0, "TM")]),
    (of(BEGIN | {"TM": str(BEGIN["TM"])[:-2]}, END), [("time-flag-missing", 0, "TM")]),
    (of(BEGIN | {"TM": str(BEGIN["TM"])[:-1]}, END), [("time-flag-missing", 0, "TM")]),
    (of(without(BEGIN, "TM"), END), [("time-flag-missing", 0, "TM")]),
    (of(BEGIN | {"TM": str(BEGIN["TM"])[:-1] + "R"}, END),
     [("time-not-synchronised", 0, "TM"), ("time-relative-mixed", 1, "TM")]),
    (of(BEGIN, END | {"TM": str(END["TM"])[:-1] + "R"}),
     [("time-not-synchronised", 1, "TM"), ("time-relative-at-end", 1, "TM")]),
    (of(BEGIN | {"TM": str(BEGIN["TM"])[:-1] + "R"}, END | {"TM": str(END["TM"])[:-1] + "R"}),
     [("time-not-synchronised", 0, "TM"), ("time-not-synchronised", 1, "TM")]),
    (of(BEGIN | {"TM": str(BEGIN["TM"])[:-1] + "U"}, END), [("time-not-synchronised", 0, "TM")]),
    (of(without(BEGIN, "ST"), END), [("status-missing", 0, "ST")]),
    (of(BEGIN, CHARGING | {"ST": "T"}, END), [("status-not-good-between", 1, "ST")]),
    (of(BEGIN, END | {"EF": "tE"}), [("time-flag", 1, "EF"), ("energy-flag", 1, "EF")]),
    (of(BEGIN, CHARGING | {"EF": "E"}, END), [("energy-flag-between", 1, "EF")]),
    (of(BEGIN | {"EF": "t"}, END), [("time-flag", 0, "EF")]),
    (of(BEGIN, CHARGING | {"TX": "X"}, END), [("exception", 1, "TX")]),
    (of(BEGIN | {"EI": 1}, END | {"EI": 2}, FV="0.4"), [("event-counter", 1, "EI")]),
]  # fmt: skip


@pytest.mark.parametrize(("receipt", "expected"), CASES, ids=[f"{n}-{case[1][-1][0]}" for n, case in enumerate(CASES)])
def test_what_is_wrong_has_its_code(receipt: Receipt, expected: Told) -> None:
    found = examine(receipt)
    assert told(found) == expected
    for one in found:
        assert one.severity is FINDINGS[one.code].severity
        assert one.receipt in (0, None)
        assert one.text.isprintable()


def test_too_many_readings_are_an_error_and_the_rest_is_not_looked_at() -> None:
    receipt = of(BEGIN, *([CHARGING] * 10_000), END)
    assert told(examine(receipt)) == [("readings-too-many", None, "RD"), ("transaction-incomplete", None, "TX")]
    assert len(receipt.readings) == len(receipt.rows) == 10_000


def half(row: Row, counter: int, **fields: object) -> Receipt:
    return of(row, **({"PG": f"T{counter}"} | fields))


PAIRS: list[tuple[list[Receipt], Told]] = [
    ([half(BEGIN, 7), half(END, 8)], []),
    ([half(BEGIN, 7), half(END, 8, MS="other")], [("meters-differ", 1, "MS")]),
    ([half(BEGIN, 7), half(END, 8, ID="other")], [("identifications-differ", 1, "ID")]),
    ([half(BEGIN, 8), half(END, 7)], [("pagination-falling", 1, "PG")]),
    ([half(BEGIN, 7), half(END | {"RV": 1}, 8)], [("register-falling", 1, "RV")]),
    ([half(BEGIN | {"ST": "E"}, 7), half(END, 8)], [("status-not-good", 0, "ST")]),
    ([half(BEGIN, 7), half(END, 8, IL="INVALID")], [("identification-level", 1, "IL")]),
    ([half(BEGIN, 7), half(END, 8, FV="2.0")], [("format-version", 1, "FV")]),
    ([half(BEGIN, 7), half(CHARGING, 8)], [("end-missing", None, "TX")]),
    ([half(BEGIN, 7), of(BEGIN, END, PG="T8")], [("begin-repeated", 1, "TX")]),
    ([half(BEGIN, 7), half(END, 8, PG="F8")], [("fiscal", 1, "PG"), ("pagination-falling", 1, "PG")]),
    ([half(BEGIN, 7), of(END | {"TX": "C", "RV": 1}, END, PG="T8")], [("register-falling", 1, "RV")]),
    ([of(BEGIN, EXPORT, PG="T7"), of(END, EXPORT | {"RV": 6}, PG="T8")], [("register-falling-between", 1, "RV")]),
    ([of(BEGIN, CHARGING | {"RV": 21}, PG="T7"), half(END, 8)], [("register-falling", 1, "RV")]),
    ([half(BEGIN, 7), half(END | {"RU": "wh"}, 8)], [("unit-unknown", 1, "RU"), ("units-mixed", 1, "RU")]),
    ([of(BEGIN, END | EXPORT, PG="T7"), half(END, 8)], [("end-repeated", 0, "TX")]),
]  # fmt: skip


@pytest.mark.parametrize(("pair", "expected"), PAIRS, ids=range(len(PAIRS)))
def test_what_is_wrong_between_two(pair: list[Receipt], expected: Told) -> None:
    assert [(one.code, one.receipt, one.field) for one in examine(*pair)] == expected


def test_every_field_that_is_no_text_is_told_whatever_else_is() -> None:
    for name in ("TM", "TX", "RV", "RI", "RU", "RT", "EF", "ST"):
        assert ("field-type", 1, name) in told(examine(of(BEGIN, CHARGING | {name: [1]}, END)))
    for name in ("FV", "MS", "PG"):
        assert ("field-type", None, name) in told(examine(of(BEGIN, END, **{name: {"a": 1}})))


@pytest.mark.parametrize(("receipts", "groups"), [
    ([half(BEGIN, 7), half(END, 8)], [(0, 1)]), ([half(END, 8, MS="other"), half(BEGIN, 7)], [(1, 0)]),
    ([half(BEGIN, 1), of(BEGIN, END, PG="T2"), of(CHARGING, PG="T3"), half(END, 4)], [(0, 3), (1,), (2,)]),
    ([half(END, 4), half(BEGIN, 3, MS="second"), of(BEGIN, END, PG="T1"), half(BEGIN, 3), half(END, 4, MS="second"),
      half(BEGIN, 2), of(CHARGING, PG="F9"), of(BEGIN, END, PG="T1")], [(1, 4), (2,), (3, 0), (5,), (6,)]),
])  # fmt: skip
def test_a_set_is_sorted_into_transactions_by_meter_and_counter(
    receipts: list[Receipt], groups: list[tuple[int, ...]]
) -> None:
    assert transactions_of(receipts) == groups


def test_counters_that_are_missing_or_there_twice_are_told_per_meter_and_context() -> None:
    receipts = [
        of(BEGIN, END, PG="T9"), of(BEGIN, END, PG="T2"), of(BEGIN, END, PG="T3"), of(BEGIN, END, PG="T5"),
        of(CHARGING, PG="F1"), of(CHARGING, PG="F2"), of(BEGIN, END, PG="T20", MS="other"),
        of(BEGIN, END, PG="T9", TT="other"), of(BEGIN, END, PG="T9"),
    ]  # fmt: skip
    assert counted(receipts) == [
        ("pagination-gap", 3, "meter 1TEST0001: T4 is missing"),
        ("pagination-gap", 0, "meter 1TEST0001: T6 to T8 (3) are missing"),
        ("pagination-repeated", 7, "another receipt has T9 of meter 1TEST0001 too"),
        ("receipt-repeated", 8, "T9 of meter 1TEST0001 is repeated"),
    ]


def test_every_code_has_a_case() -> None:
    tried = {code for _, expected in (*CASES, *PAIRS) for code, _, _ in expected}
    tried |= {"readings-too-many", "pagination-gap", "pagination-repeated", "receipt-repeated"}
    tried |= {"container-not-readable", "context-swapped", "text-around-tuple", "key-spelling"}
    assert tried == set(FINDINGS)


def test_a_finding_has_the_severity_of_its_code_and_only_some_need_no_action() -> None:
    assert finding("fiscal", "a text") == Finding("fiscal", Severity.INFO, None, "", "a text")
    found = finding("energy-flag", "a text", field="EF", reading=1, receipt=2)
    assert found == Finding("energy-flag", Severity.ERROR, 1, "EF", "a text", 2)
    assert [severity.value for severity in Severity] == ["error", "warning", "info"]
    assert FINDINGS["fiscal"].differs == ""
    asking = {"fiscal": False, "register-unknown": True, "energy-flag": True}
    assert {code: not finding(code, "").asks_for_nothing for code in asking} == asking
    assert not Finding("energy-flag", Severity.INFO, None, "", "").asks_for_nothing
    report = Report()
    report.add("fiscal", "a text")
    report.add("register-unknown", "another", "RI", of=1)
    assert report == [finding("fiscal", "a text"), finding("register-unknown", "another", field="RI", receipt=1)]


rows = st.dictionaries(st.sampled_from([*BEGIN, "EI"]), json_values | st.sampled_from([*BEGIN.values(), *END.values()]))
payloads = st.dictionaries(st.sampled_from([*PAYLOAD, "CT", "CI"]), json_values | st.sampled_from(["T1", "F1", "0.3"]))


@given(st.lists(st.tuples(payloads, st.lists(rows | json_values, max_size=4), json_values), min_size=1, max_size=3))
def test_whatever_a_receipt_holds_has_findings(made: list[tuple[Row, list[object], object]]) -> None:
    receipts = []
    for fields, readings, sd in made:
        text = f"OCMF|{json.dumps(PAYLOAD | fields | {'RD': readings})}|{json.dumps({'SD': sd})}"
        receipts.append(parse(text))
    groups = transactions_of(receipts)
    found = [one for group in groups for one in examine(*(receipts[number] for number in group))]
    assert all(one.text.isprintable() for one in (*found, *(one for receipt in receipts for one in examine(receipt))))
    assert all(text.isprintable() for _, _, text in counted(receipts))
    numbers = [number for group in groups for number in group]
    assert {receipts[number].text for number in numbers} == {receipt.text for receipt in receipts}
    assert len(numbers) == len(set(numbers))
