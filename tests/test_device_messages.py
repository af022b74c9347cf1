"""The meter's answers: what they say is read exactly, and what cannot be said of a meter is refused with its place."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.device import messages
from iem_dcr.device.messages import Gateway, MeterValue, PublicKey, ShapeError, User
from iem_dcr.meter_time import MeterTime
from tests.support.shared import shared

if TYPE_CHECKING:
    from collections.abc import Callable

VALUE: dict[str, Any] = {
    "MS": "1TST0000000001",
    "TM": "2026-03-01T13:00:00,250+0100 S",
    "EF": "",
    "ST": "G",
    "XT": True,
    "RD": [
        {"RV": "00012345.678", "RI": "1-b:1.8.e", "RU": "kWh", "RT": "DC"},
        {"RV": "00000000.001", "RI": "1-b:2.8.e", "RU": "kWh", "RT": "DC"},
        {"WV": "00000001.000", "WI": "transaction_1-b:1.8.e", "WU": "kWh", "WT": "DC"},
        {"WV": "00000000.000", "WI": "transaction_1-b:2.8.e", "WU": "kWh", "WT": "DC"},
    ],
    "U1": 0.5,
    "U2": 801.25,
    "U3": 0,
    "U4": 0,
    "I": 124.9,
    "P": 100076.1,
    "XS": "0x0000000000000000",
    "XC": "0x0000, 0x00000000, 0x00, 0x00",
}
DECODED: dict[str, Any] = json.loads(json.dumps(VALUE), parse_float=Decimal)
IMPORT, EXPORT = VALUE["RD"][0], VALUE["RD"][1]


def read(**fields: object) -> MeterValue:
    return messages.meter_value(messages.decode(json.dumps(VALUE | fields).encode()))


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in DECODED.items() if name != key}


def refusal(answer: object, reader: Callable[[object], object] = messages.meter_value) -> ShapeError:
    with pytest.raises(ShapeError) as refused:
        reader(answer)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200
    return refused.value


def test_a_genuine_live_value() -> None:
    value = messages.meter_value(messages.decode(shared("device/metervalue.json").read_bytes()))
    assert value == MeterValue(
        MS="1ISA0200000001",
        TM=MeterTime(datetime(2024, 12, 15, 20, 42, 28, tzinfo=UTC), "U"),
        EF="t",
        ST="G",
        XT=False,
        XS="0x0000004000000004",
        XC="0x0000, 0x00000000, 0x00, 0x00",
        U2=Decimal("60.1"),
        I=Decimal(5),
        P=Decimal(300),
        import_wh=Decimal(446540),
        export_wh=Decimal(4881),
        transaction_wh=Decimal(1040),
    )
    assert value.is_healthy


def test_a_genuine_gateway_and_key() -> None:
    gateway = messages.gateway(messages.decode(shared("device/gw.json").read_bytes()))
    assert gateway == Gateway("", "", MeterTime(datetime(2024, 12, 16, 17, 0, 22, tzinfo=UTC), "U"))
    assert not gateway.is_set
    key = messages.public_key(messages.decode(shared("device/publickey.json").read_bytes()))
    assert key.SA == "ECDSA-secp256r1-SHA256"
    assert len(bytes.fromhex(key.PK)) == 91


def test_a_live_value_in_full() -> None:
    assert read() == MeterValue(
        MS="1TST0000000001",
        TM=MeterTime(datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC), "S"),
        EF="",
        ST="G",
        XT=True,
        XS="0x0000000000000000",
        XC="0x0000, 0x00000000, 0x00, 0x00",
        U2=Decimal("801.25"),
        I=Decimal("124.9"),
        P=Decimal("100076.1"),
        import_wh=Decimal(12345678),
        export_wh=Decimal(1),
        transaction_wh=Decimal(1000),
    )


@given(st.permutations(VALUE["RD"]), st.integers(0, 3))
def test_rows_come_in_any_order(rows: list[object], at: int) -> None:
    strange: list[object] = [{"RI": "1-b:3.8.e", "RV": "?"}, None, "1-b:1.8.e", {"RI": ["1-b:1.8.e"]}]
    value = read(RD=rows[:at] + strange + rows[at:])
    assert (value.import_wh, value.export_wh) == (Decimal(12345678), Decimal(1))


def test_rows_may_be_missing_but_not_the_one_that_is_billed() -> None:
    assert read(RD=[IMPORT]).export_wh is None
    for rows in ([], [EXPORT], VALUE["RD"][1:]):
        error = refusal(DECODED | {"RD": rows})
        assert (error.path, error.what) == ("RD", "no row with RI 1-b:1.8.e")
    assert refusal(without("RD")).path == "RD"
    assert refusal(DECODED | {"RD": {"RI": "1-b:1.8.e"}}).what == "expected a list, not a dict"


@pytest.mark.parametrize(
    "row", [None, [], {}, {"WV": "1"}, {"WV": "1", "WU": "kW"}, {"WV": "x", "WU": "kWh"}, {"WV": {}, "WU": []}]
)
def test_no_live_value_fails_for_the_register_of_the_transaction(row: object) -> None:
    strange = row | {"WI": "transaction_1-b:1.8.e"} if isinstance(row, dict) else row
    assert read(RD=[strange, IMPORT]).transaction_wh is None
    assert read(RD=[IMPORT]).import_wh == Decimal(12345678)


def test_a_register_that_comes_twice_is_refused() -> None:
    assert refusal(DECODED | {"RD": [IMPORT, EXPORT, IMPORT]}).path == "RD[1-b:1.8.e]"
    assert refusal(DECODED | {"RD": [IMPORT, EXPORT, EXPORT]}).path == "RD[1-b:2.8.e]"


@pytest.mark.parametrize(
    ("RV", "RU", "wh"),
    [
        ("00000446.540", "kWh", "446540"),
        ("00000000.001", "kWh", "1"),
        ("99999999.999", "kWh", "99999999999"),
        ("0.1", "kWh", "100"),
        ("446540", "Wh", "446540"),
        ("446540.5", "Wh", "446540.5"),
        ("0.446540", "MWh", "446540"),
        ("-1.5", "kWh", "-1500"),
        ("000000000000012.000000001", "kWh", "12000.000001"),
        (446, "kWh", "446000"),
    ],
)
def test_energy_is_exact(RV: object, RU: str, wh: str) -> None:
    assert read(RD=[IMPORT | {"RV": RV, "RU": RU}]).import_wh == Decimal(wh)


def test_energy_as_a_json_number_is_exact() -> None:
    body = json.dumps(VALUE).replace('"00012345.678"', "0.1000000000000000055").encode()
    assert messages.meter_value(messages.decode(body)).import_wh == Decimal("100.0000000000000055")


@given(st.integers(0, 10**11 - 1))
def test_every_number_of_the_register_is_exact(wh: int) -> None:
    text = f"{wh // 1000:08}.{wh % 1000:03}"
    assert read(RD=[IMPORT | {"RV": text}]).import_wh == wh


@pytest.mark.parametrize(
    "RV", ["", "-", "1,5", "+1", " 1", "1 ", "1.", ".5", "1e3", "0x10", "NaN", "Infinity", "\u0661", "1\n", "9" * 16,
           None, True, [], {"v": 1}, Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), Decimal("1e99999")]
)  # fmt: skip
def test_what_is_no_energy_is_refused(RV: object) -> None:
    rows = [IMPORT | {"RV": RV}]
    assert refusal(DECODED | {"RD": rows}).path == "RD[1-b:1.8.e].RV"


@pytest.mark.parametrize("RU", ["", "kwh", "J", "kW", None, 1000, ["kWh"]])
def test_an_energy_has_a_unit_of_energy(RU: object) -> None:
    error = refusal(DECODED | {"RD": [IMPORT, EXPORT | {"RU": RU}]})
    assert error.path == "RD[1-b:2.8.e].RU"
    missing = {key: value for key, value in IMPORT.items() if key != "RU"}
    assert refusal(DECODED | {"RD": [missing]}).path == "RD[1-b:1.8.e].RU"


def test_whole_numbers_and_unknown_keys() -> None:
    value = read(U2=60, I=0, P=-300, U5=1.5, XX={"deep": [None]}, MS="M")
    assert [str(number) for number in (value.U2, value.I, value.P)] == ["60", "0", "-300"]
    assert str(read(I=-0.1).I) == "-0.1"


@pytest.mark.parametrize("key", ["MS", "TM", "XT", "U2", "I", "P", "XC"])
def test_what_is_needed_is_missed_by_name(key: str) -> None:
    error = refusal(without(key))
    assert (error.path, error.what) == (key, "missing")


@pytest.mark.parametrize("key", ["EF", "ST", "XS", "U1", "U3", "U4"])
def test_what_is_not_needed_may_be_missing(key: str) -> None:
    assert messages.meter_value(without(key)).import_wh == Decimal(12345678)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MS", 1), ("MS", None), ("TM", 0), ("TM", "yesterday"), ("TM", "2026-02-30T00:00:00,000+0100"), ("XT", 1),
        ("XT", "false"), ("XT", None), ("U2", "60.1"), ("I", True), ("P", None), ("P", [300]), ("XC", 0), ("EF", 0),
        ("I", Decimal("NaN")), ("I", Decimal("1e400")), ("I", Decimal("-1e999999999")), ("P", 10**400), ("ST", []),
    ],
)  # fmt: skip
def test_a_wrong_type_is_refused_with_its_path(key: str, value: object) -> None:
    assert refusal(DECODED | {key: value}).path == key


def test_a_number_too_small_to_matter_is_a_number() -> None:
    assert messages.meter_value(DECODED | {"I": Decimal("1e-999999")}).I.adjusted() < -9


@pytest.mark.parametrize("answer", [None, [], "OCMF|", 1, True])
@pytest.mark.parametrize(
    "reader", [messages.meter_value, messages.gateway, messages.public_key, messages.datetime_answer]
)
def test_every_answer_is_an_object(answer: object, reader: Callable[[object], object]) -> None:
    error = refusal(answer, reader)
    assert error.path == ""
    assert error.what.startswith("expected an object, not ")


def test_gateway() -> None:
    answer = {"CT": "EVSEID", "CI": "DE*TST*E1", "TM": "2026-03-01T13:00:00,250+0100", "new": 1}
    gateway = messages.gateway(answer)
    assert gateway == Gateway("EVSEID", "DE*TST*E1", MeterTime(datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)))
    assert gateway.is_set
    for clock in ({"TM": "1970"}, {"TM": None}):
        assert messages.gateway(answer | clock).TM is None
    assert refusal({"CT": "", "TM": ""}, messages.gateway).path == "CI"
    assert refusal({"CT": None, "CI": ""}, messages.gateway).path == "CT"


def test_clock_and_key() -> None:
    assert messages.datetime_answer({"TM": "2026-03-01T13:00:00,000+0100 R"}).sync == "R"
    assert refusal({}, messages.datetime_answer).path == "TM"
    assert messages.public_key({"PK": "00ff"}) == PublicKey("", "00ff")
    assert refusal({"SA": "x"}, messages.public_key).path == "PK"
    assert refusal({"SA": 1, "PK": "00"}, messages.public_key).path == "SA"


def test_a_users_body_has_the_meters_order() -> None:
    user = User(IS=True, IL="NONE", IF=("RFID_PLAIN", "OCPP_AUTH"), IT="ISO14443", ID="04AABB", US=False, TT="")
    assert json.dumps(user.body()) == (
        '{"IS": true, "IL": "NONE", "IF": ["RFID_PLAIN", "OCPP_AUTH"], "IT": "ISO14443", "ID": "04AABB", '
        '"US": false, "TT": ""}'
    )
    assert list(User(IS=False, IL="", IF=(), IT="", ID="", US=True).body()) == ["IS", "IL", "IF", "IT", "ID", "US"]


@pytest.mark.parametrize(
    "XC",
    ["0x0000, 0x00000000, 0x00, 0x00", "0x0000,0x00000000,0x00,0x00", "0", "0X00 , 0x0", "0000,0000", " 0x0\t,0x00 "],
)
def test_healthy_however_the_zeros_are_written(XC: str) -> None:
    assert read(XC=XC).is_healthy


@pytest.mark.parametrize(
    "XC",
    ["0x0000, 0x00000001, 0x00, 0x00", "0x8000,0,0,0", "0x0000, 0x00000000, 0x00, 0xg0", "", "0x", "0x00,", ",0", "ok",
     "-", "0_0", "+0", "0x0000 0x0000", "\u0660", "0x00000000000000000000000000000000001"],
)  # fmt: skip
def test_not_healthy(XC: str) -> None:
    assert not read(XC=XC).is_healthy


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6), st.booleans(), st.integers(1, 16))
def test_health_is_every_word_zero(words: list[int], upper: bool, width: int) -> None:  # noqa: FBT001  drawn
    text = ", ".join(f"{word:#0{width + 2}X}" if upper else f"{word:#0{width + 2}x}" for word in words)
    assert read(XC=text).is_healthy is not any(words)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>\xff\x1b[2J</html>", b"{", b'{"I": NaN}', b'{"I": Infinity}', b'{"I": -Infinity}', b"[" * 100_000,
        b'{"I": 1e9999999999999999999999}', b"9" * 5000, b"\xff\xfe\xfd", b"{'I': 1}", b'{"I": 1,}', b"OCMF|{}|{}",
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(ShapeError) as refused:
        messages.decode(body)
    assert refused.value.path == ""
    assert refused.value.what.startswith("not JSON: ")
    assert str(refused.value).isprintable()


def test_fractions_are_decoded_exactly() -> None:
    assert messages.decode(b'{"I": 0.1, "n": [1]}') == {"I": Decimal("0.1"), "n": [1]}
    assert messages.decode('\ufeff{"TT": "€"}'.encode()) == {"TT": "€"}


any_text = st.text(st.characters(exclude_categories=()), max_size=12)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=5,
)
row_values = st.sampled_from(["1-b:1.8.e", "1-b:2.8.e", "kWh", "Wh", "00000001.000", 7]) | any_json
rows = st.lists(st.dictionaries(st.sampled_from(["RV", "RI", "RU", "RT"]), row_values) | any_json, max_size=4)
READERS = [messages.meter_value, messages.gateway, messages.public_key, messages.datetime_answer]


def try_to_read(answer: object) -> None:
    for reader in READERS:
        try:
            said = reader(answer)
        except ShapeError as error:
            shown = str(error)
        else:
            assert isinstance(answer, dict)
            shown = ascii(said)
        assert shown.isprintable()


@given(any_json | st.dictionaries(st.sampled_from([*VALUE, "CT", "CI", "SA", "PK"]), any_json))
def test_any_answer_is_read_or_refused(answer: object) -> None:
    try_to_read(answer)


@given(st.dictionaries(st.sampled_from(list(VALUE)), any_json, max_size=2), st.none() | rows)
def test_an_answer_with_something_wrong_is_read_or_refused(change: dict[str, object], rd: object) -> None:
    answer = DECODED | change
    try_to_read(answer if rd is None else answer | {"RD": rd})


@given(st.binary(max_size=60) | any_json.map(lambda value: json.dumps(value, default=str).encode()))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    try:
        answer = messages.decode(body)
    except ShapeError:
        return
    try_to_read(answer)
