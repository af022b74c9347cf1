"""The meter's answers: what can be read is read exactly, and only a missing import register costs a live value."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.device import messages
from iem_dcr.device.messages import Gateway, MeterValue, PublicKey, ShapeError
from iem_dcr.meter_time import MeterTime
from tests.support.shared import shared

if TYPE_CHECKING:
    from collections.abc import Callable

VALUE: dict[str, Any] = {
    "MS": "1TST0000000001", "TM": "2026-03-01T13:00:00,250+0100 S", "EF": "", "ST": "G", "XT": True,
    "RD": [
        {"RV": "00012345.678", "RI": "1-b:1.8.e", "RU": "kWh", "RT": "DC"},
        {"RV": "00000000.001", "RI": "1-b:2.8.e", "RU": "kWh", "RT": "DC"},
        {"WV": "00000001.000", "WI": "transaction_1-b:1.8.e", "WU": "kWh", "WT": "DC"},
        {"WV": "00000000.000", "WI": "transaction_1-b:2.8.e", "WU": "kWh", "WT": "DC"},
    ],
    "U1": 0.5, "U2": 801.25, "U3": 0, "U4": 0, "I": 124.9, "P": 100076.1,
    "XS": "0x0000000000000000", "XC": "0x0000, 0x00000000, 0x00, 0x00",
}  # fmt: skip
IMPORT, EXPORT, TRANSACTION, _ = VALUE["RD"]
IMPORT_WH = Decimal(12345678)
NOON = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)
READERS = [messages.meter_value, messages.gateway, messages.public_key, messages.datetime_answer]


def read(**fields: object) -> MeterValue:
    return messages.meter_value(messages.decode(json.dumps(VALUE | fields).encode()))


def refusal(answer: object, reader: Callable[[object], object] = messages.meter_value) -> ShapeError:
    with pytest.raises(ShapeError) as refused:
        reader(answer)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200
    return refused.value


def test_genuine_answers_are_read() -> None:
    value = messages.meter_value(messages.decode(shared("device/metervalue.json").read_bytes()))
    assert (value.MS, value.XT, value.has_error) == ("1ISA0200000001", False, False)
    assert MeterTime(datetime(2024, 12, 15, 20, 42, 28, tzinfo=UTC), "U") == value.TM
    assert [str(number) for number in (value.U2, value.I, value.P)] == ["60.1", "5", "300"]
    registers = [value.import_wh, value.export_wh, value.transaction_wh]
    assert registers == [Decimal(446540), Decimal(4881), Decimal(1040)]
    gateway = messages.gateway(messages.decode(shared("device/gw.json").read_bytes()))
    assert gateway == Gateway("", "", MeterTime(datetime(2024, 12, 16, 17, 0, 22, tzinfo=UTC), "U"))
    key = messages.public_key(messages.decode(shared("device/publickey.json").read_bytes()))
    assert key.SA == "ECDSA-secp256r1-SHA256"
    assert len(bytes.fromhex(key.PK)) == 91


def test_a_live_value_is_read_in_full() -> None:
    assert read() == MeterValue(
        MS="1TST0000000001",
        TM=MeterTime(NOON, "S"),
        EF="",
        ST="G",
        XT=True,
        XS="0x0000000000000000",
        XC="0x0000, 0x00000000, 0x00, 0x00",
        U2=Decimal("801.25"),
        I=Decimal("124.9"),
        P=Decimal("100076.1"),
        import_wh=IMPORT_WH,
        export_wh=Decimal(1),
        transaction_wh=Decimal(1000),
    )


# --- energy ---


@given(st.permutations(VALUE["RD"]), st.integers(0, 3))
def test_rows_come_in_any_order(rows: list[object], at: int) -> None:
    strange: list[object] = [{"RI": "1-b:3.8.e", "RV": "?"}, None, "1-b:1.8.e", {"RI": ["1-b:1.8.e"]}]
    assert read(RD=rows[:at] + strange + rows[at:]) == read()
    assert (read().import_wh, read().export_wh, read().transaction_wh) == (IMPORT_WH, Decimal(1), Decimal(1000))


@pytest.mark.parametrize(("rows", "path", "what"), [
    (None, "RD", "missing"), ({"RI": "1-b:1.8.e"}, "RD", "expected a list, not a dict"),
    ([], "RD", "0 rows with RI 1-b:1.8.e"), ([EXPORT, TRANSACTION], "RD", "0 rows with RI 1-b:1.8.e"),
    ([IMPORT, EXPORT, IMPORT], "RD[1-b:1.8.e]", "2 rows with RI 1-b:1.8.e"),
    *(([IMPORT | {"RU": RU}], "RD[1-b:1.8.e].RU", f"no unit of energy: {said}")
      for RU, said in (("kW", "'kW'"), (["kWh"], "a list"), (None, "None"))),
])  # fmt: skip
def test_without_the_import_register_there_is_no_value(rows: object, path: str, what: str) -> None:
    error = refusal(VALUE | {"RD": rows})
    assert (error.path, error.what) == (path, what)


@pytest.mark.parametrize("row", [None, [], {}, {"V": "1"}, {"V": "1", "U": "kW"}, {"V": "x", "U": "kWh"}, {"V": {}}])
@pytest.mark.parametrize(
    ("kind", "code", "field"), [("W", "transaction_1-b:1.8.e", "transaction_wh"), ("R", "1-b:2.8.e", "export_wh")]
)
def test_other_registers_may_be_missing_or_invalid(row: Any, kind: str, code: str, field: str) -> None:
    strange = {kind + key: value for key, value in row.items()} | {f"{kind}I": code} if isinstance(row, dict) else row
    value = read(RD=[strange, IMPORT])
    assert getattr(value, field) is None
    assert value.import_wh == IMPORT_WH
    assert getattr(read(RD=[IMPORT, EXPORT, EXPORT, TRANSACTION, TRANSACTION]), field) is None


@pytest.mark.parametrize(("RV", "RU", "wh"), [
    ("99999999.999", "kWh", "99999999999"), ("0.1", "kWh", "100"), ("446540.5", "Wh", "446540.5"),
    ("0.446540", "MWh", "446540"), ("-1.5", "kWh", "-1500"), ("000000000000012.000000001", "kWh", "12000.000001"),
    (" 12\n", "kWh", "12000"), (446, "kWh", "446000"),
])  # fmt: skip
def test_energy_is_exact(RV: object, RU: str, wh: str) -> None:
    assert read(RD=[IMPORT | {"RV": RV, "RU": RU}]).import_wh == Decimal(wh)


def test_energy_as_a_json_number_is_exact() -> None:
    body = json.dumps(VALUE).replace('"00012345.678"', "0.1000000000000000055").encode()
    assert messages.meter_value(messages.decode(body)).import_wh == Decimal("100.0000000000000055")


@pytest.mark.parametrize(
    "number", ["", "-", "1,5", "+1", "1 1", "1.", ".5", "1e3", "0x10", "NaN", "Infinity", "\u0661", "9" * 16, None,
               True, [], {"v": 1}, Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), Decimal("1e99999"), 10**400]
)  # fmt: skip
def test_invalid_numbers_are_none(number: object) -> None:
    assert refusal(VALUE | {"RD": [IMPORT | {"RV": number}]}).path == "RD[1-b:1.8.e].RV"
    value = messages.meter_value(VALUE | dict.fromkeys(("U2", "I", "P"), number))
    assert [value.U2, value.I, value.P] == [None] * 3
    assert value.import_wh == IMPORT_WH


# --- everything else ---


@pytest.mark.parametrize("strange", [..., None, [], {}])
def test_other_fields_may_be_missing_or_invalid(strange: object) -> None:
    for key in ("MS", "TM", "EF", "ST", "XT", "U1", "U2", "I", "P", "XS", "XC"):
        fields = {name: value for name, value in VALUE.items() if name != key}
        value = messages.meter_value(fields if strange is ... else fields | {key: strange})
        assert value.import_wh == IMPORT_WH
        assert getattr(value, key, None) == ("" if key in ("MS", "EF", "ST", "XS", "XC") else None)


@pytest.mark.parametrize(
    ("key", "said", "meant"),
    [
        ("U2", 60, Decimal(60)), ("I", "0", Decimal(0)), ("P", " -300.5 ", Decimal("-300.5")), ("MS", 1234, "1234"),
        ("MS", " M ", " M "), ("EF", 0, "0"), ("XC", 0, "0"), ("TM", 0, None), ("TM", "yesterday", None),
        ("TM", "2026-02-30T00:00:00,000+0100", None), ("TM", "2026-03-01T13:00:00.25+0100", MeterTime(NOON)),
        *[("XT", said, True) for said in (True, 1, "true", "TRUE", " 1 ")],
        *[("XT", said, False) for said in (False, 0, "false", "False", "0")],
        *[("XT", said, None) for said in ("", "2", "yes", "B", "-1", "0.5")], ("XT", 2, None), ("XT", 1.0, None),
    ],
)  # fmt: skip
def test_numbers_may_be_text_and_the_reverse(key: str, said: Any, meant: object) -> None:
    assert getattr(read(**{key: said}), key) == meant


@pytest.mark.parametrize(
    ("texts", "has_error"),
    [
        (["0x0000, 0x00000000, 0x00, 0x00", "0x0000,0x0", "0", "0X00 , 0x0", "0000;0", " 0x0\t", "ok, 0"], False),
        (["0x0000, 0x00000001, 0x00, 0x00", "0x8000,0,0,0", "1", "ok, 0xF", "0x0 0x1"], True),
        (["", "0x", "ok", "-", "0_0", "+0", "\u0660", "0x" + "0" * 40 + "1", None, [], {}], None),
    ],
)
def test_an_error_is_a_word_that_is_not_zero(texts: list[object], *, has_error: bool | None) -> None:
    assert [read(XC=text).has_error for text in texts] == [has_error] * len(texts)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6), st.booleans(), st.integers(1, 16))
def test_spelling_of_error_words_does_not_matter(words: list[int], upper: bool, width: int) -> None:  # noqa: FBT001  drawn
    text = ", ".join(f"{word:#0{width + 2}X}" if upper else f"{word:#0{width + 2}x}" for word in words)
    assert read(XC=text).has_error is any(words)


# --- the other nodes ---


@pytest.mark.parametrize("reader", READERS)
def test_every_answer_is_an_object(reader: Callable[[object], object]) -> None:
    answers: list[object] = [None, [], "OCMF|", 1, True]
    for answer in answers:
        error = refusal(answer, reader)
        assert (error.path, error.what.startswith("expected an object, not ")) == ("", True)


def test_a_charge_point_is_read() -> None:
    answer = {"CT": "EVSEID", "CI": "DE*TST*E1", "TM": "2026-03-01T13:00:00,250+0100", "new": 1}
    assert messages.gateway(answer) == Gateway("EVSEID", "DE*TST*E1", MeterTime(NOON))
    edges = "0001-01-01T00:00:00,000+0000 U", "9999-12-31T23:59:59,999+0000 S"
    for clock in ("1970", None, "0000-00-00T00:00:00,000+0000 U", "----", "", *edges):
        assert messages.gateway(answer | {"TM": clock}).TM is None
    assert messages.gateway({"CI": None}) == Gateway("", "", None)
    assert [messages.gateway({"CI": CI}).is_set for CI in ("", "DE*1")] == [False, True]
    assert refusal({"error": "busy"}, messages.gateway).what == "none of CT, CI and TM"


def test_clock_and_key_are_read() -> None:
    assert messages.datetime_answer({"TM": "2026-03-01T13:00:00,250+0100 R"}) == MeterTime(NOON, "R")
    assert messages.datetime_answer({}) is None
    assert messages.public_key({"PK": "00ff"}) == PublicKey("", "00ff")
    assert [refusal({"PK": key}, messages.public_key).path for key in ("", None, True)] == ["PK"] * 3


# --- JSON ---


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>\xff\x1b[2J</html>", b"{", b'{"I": NaN}', b'{"I": Infinity}', b'{"I": -Infinity}', b"[" * 100_000,
        b'{"I": 1e9999999999999999999999}', b"9" * 5000, b"\xff\xfe\xfd", b"{'I': 1}", b'{"I": 1,}', b"OCMF|{}|{}",
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(body: bytes) -> None:
    error = refusal(body, lambda said: messages.decode(bytes(said)))  # type: ignore[call-overload]  # it is bytes
    assert error.path == ""
    assert error.what.startswith("not JSON: ")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_decoded_exactly(encoding: str) -> None:
    assert messages.decode('{"I": 0.1, "TT": "€"}'.encode(encoding)) == {"I": Decimal("0.1"), "TT": "€"}


any_text = st.text(st.characters(exclude_categories=()), max_size=12)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=5,
)
row_values = st.sampled_from(["1-b:1.8.e", "1-b:2.8.e", "kWh", "Wh", "00000001.000", 7]) | any_json
rows = st.lists(st.dictionaries(st.sampled_from(["RV", "RI", "RU", "RT"]), row_values) | any_json, max_size=4)
any_bytes = st.binary(max_size=60) | any_json.map(lambda value: json.dumps(value, default=str).encode())


@given(
    any_json
    | st.dictionaries(st.sampled_from([*VALUE, "CT", "CI", "SA", "PK"]), any_json)
    | st.fixed_dictionaries({"RD": rows})
    | any_bytes
)
def test_any_answer_is_read_or_refused(answer: object) -> None:
    for reader in READERS:
        try:
            said = ascii(reader(messages.decode(answer) if isinstance(answer, bytes) else answer))
        except ShapeError as error:
            said = str(error)
        assert said.isprintable()
