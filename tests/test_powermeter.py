"""The station's vocabulary, held against EVerest's own definitions."""

from __future__ import annotations

import dataclasses
import json
import math
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr import powermeter
from iem_dcr.device import messages
from iem_dcr.errors import RequestError
from iem_dcr.powermeter import (
    Powermeter,
    SignedMeterValue,
    TransactionReq,
    TransactionRequestStatus,
    TransactionStartResponse,
    TransactionStopResponse,
)
from iem_dcr.simulator.energy import kwh_text
from tests.support.everest_types import of_interface, of_type, problems

REQUEST: dict[str, object] = {
    "evse_id": "DE*TST*E0001*1",
    "transaction_id": "5b1c2f1e-0001",
    "identification_status": "ASSIGNED",
    "identification_flags": [],
    "identification_type": "ISO14443",
}
FULL = REQUEST | {
    "identification_level": "VERIFIED",
    "identification_flags": ["RFID_PLAIN", "OCPP_AUTH"],
    "identification_data": "04AABBCC",
    "tariff_text": "0,42 €/kWh",
}

instants = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.sampled_from([UTC, timezone.max]))  # noqa: DTZ001  Hypothesis adds the zone
numbers = st.decimals(-(10**9), 10**9, places=3)
any_text = st.text(max_size=20)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=5,
)
live_values = st.builds(Powermeter, instants, any_text, numbers, st.none() | numbers, numbers, numbers, numbers)
receipts = st.builds(SignedMeterValue, any_text, any_text, st.none() | instants)
statuses = st.sampled_from(TransactionRequestStatus)


@given(live_values)
def test_a_live_value_is_a_powermeter(value: Powermeter) -> None:
    assert problems(of_interface("powermeter", "vars", "powermeter"), value.to_json()) == []
    assert json.loads(json.dumps(value.to_json(), allow_nan=False)) == value.to_json()


@given(st.integers(0, 10**11 - 1), st.integers(0, 10**11 - 1))
def test_energy_is_exact_from_the_meter_to_the_station(import_wh: int, export_wh: int) -> None:
    """A register has eight digits before the point and three behind it, which a float holds in watt hours."""
    registers = ("1-b:1.8.e", import_wh), ("1-b:2.8.e", export_wh)
    rows = [{"RV": kwh_text(wh), "RI": code, "RU": "kWh", "RT": "DC"} for code, wh in registers]
    said = {
        "MS": "M",
        "TM": "2026-03-01T12:00:00,000+0100",
        "XT": False,
        "XC": "0",
        "U2": 1,
        "I": 1,
        "P": 1,
        "RD": rows,
    }
    value = messages.meter_value(messages.decode(json.dumps(said).encode()))
    assert value.TM is not None
    published = Powermeter(value.TM.instant, "M", value.import_wh, value.export_wh, value.P, value.U2, value.I)
    seen = json.loads(json.dumps(published.to_json()), parse_float=Decimal)
    assert (seen["energy_Wh_import"]["total"], seen["energy_Wh_export"]["total"]) == (import_wh, export_wh)


@given(statuses, st.none() | receipts, any_text)
def test_an_answer_is_valid(status: TransactionRequestStatus, receipt: SignedMeterValue | None, error: str) -> None:
    for command, response in (
        ("start_transaction", TransactionStartResponse(status, error).to_json()),
        ("stop_transaction", TransactionStopResponse(status, receipt, error).to_json()),
    ):
        assert problems(of_interface("powermeter", "cmds", command, "result"), response) == []


def test_a_live_value_in_full() -> None:
    at = datetime(2026, 7, 1, 14, 30, 1, 250999, tzinfo=timezone(timedelta(hours=2)))
    value = Powermeter(at, "1TST01", *map(Decimal, ("446540.000", "4881.000", "-300.5", "60.1", "-5")))
    assert value.to_json() == {
        "timestamp": "2026-07-01T12:30:01.250Z", "meter_id": "1TST01", "energy_Wh_import": {"total": 446540.0},
        "energy_Wh_export": {"total": 4881.0}, "power_W": {"total": -300.5}, "voltage_V": {"DC": 60.1},
        "current_A": {"DC": -5.0},
    }  # fmt: skip
    assert "energy_Wh_export" not in dataclasses.replace(value, energy_wh_export=None).to_json()


def test_receipt_is_sent_byte_for_byte_without_unknown_fields() -> None:
    text = 'OCMF|{"TT":"a\\u00e4 é"}|{"SD":"00"}\n'
    bare = {"signed_meter_data": text, "signing_method": "", "encoding_method": "OCMF"}
    known = {"public_key": "3059AB", "timestamp": "2026-01-01T00:00:00.000Z"}
    ok = TransactionRequestStatus.OK
    receipt = SignedMeterValue(text, "3059AB", datetime(2026, 1, 1, tzinfo=UTC))
    assert TransactionStopResponse(ok, receipt).to_json() == {"status": "OK", "signed_meter_value": bare | known}
    assert SignedMeterValue(text, "", None).to_json() == bare
    assert TransactionStartResponse(ok).to_json() == TransactionStopResponse(ok).to_json() == {"status": "OK"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (powermeter.IDENTIFICATION_STATUS, "OCMFUserIdentificationStatus"),
        (powermeter.IDENTIFICATION_LEVEL, "OCMFIdentificationLevel"),
        (powermeter.IDENTIFICATION_FLAGS, "OCMFIdentificationFlags"),
        (powermeter.IDENTIFICATION_TYPE, "OCMFIdentificationType"),
        (tuple(TransactionRequestStatus), "TransactionRequestStatus"),
    ],
)
def test_the_enumerations_are_everests(ours: tuple[str, ...], theirs: str) -> None:
    assert list(ours) == of_type(f"/powermeter#/{theirs}")["enum"]


def test_the_request_has_everests_fields() -> None:
    schema = of_type("/powermeter#/TransactionReq")
    assert set(TransactionReq.__slots__) == set(schema["properties"])
    assert set(REQUEST) == set(schema["required"])
    assert schema["properties"]["identification_flags"]["maxItems"] == powermeter.MAX_IDENTIFICATION_FLAGS


def test_a_request_in_full() -> None:
    read = dataclasses.asdict(TransactionReq.from_json(FULL))
    assert read == FULL | {"identification_flags": ("RFID_PLAIN", "OCPP_AUTH")}
    least = TransactionReq.from_json(REQUEST)
    assert (least.identification_level, least.identification_data, least.tariff_text) == (None, None, None)
    assert TransactionReq.from_json(REQUEST | {"identification_data": "", "tariff_text": ""}).tariff_text == ""


@pytest.mark.parametrize(("change", "reason"), [
    ({"evse_id": 1}, "evse_id must be a string"), ({"transaction_id": None}, "transaction_id must be a string"),
    ({"identification_status": "assigned"}, "identification_status is 'assigned': expected one of ASSIGNED"),
    ({"identification_level": None}, "identification_level must be a string"),
    ({"identification_level": "HIGH"}, "identification_level is 'HIGH'"),
    ({"identification_type": "RFID"}, "identification_type is 'RFID'"),
    ({"identification_flags": "RFID_PLAIN"}, "identification_flags is missing or not a list"),
    ({"identification_flags": ["RFID_PLAIN"] * 5}, "identification_flags has 5 flags; 4 are allowed"),
    ({"identification_flags": [["RFID_PLAIN"]]}, "identification_flags is ['RFID_PLAIN']"),
    ({"identification_data": 4711}, "identification_data must be a string"),
    ({"tariff_text": ["a"]}, "tariff_text must be a string"), ({"tarif\x1b[2Jtext": "a"}, "no field tarif [2Jtext"),
], ids=range(12))  # fmt: skip
def test_a_refusal_names_the_field(change: dict[str, object], reason: str) -> None:
    with pytest.raises(RequestError) as refused:
        TransactionReq.from_json(REQUEST | change)
    assert reason in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_missing_field_is_named_and_a_request_is_an_object() -> None:
    for key in REQUEST:
        with pytest.raises(RequestError, match=f"{key} is missing"):
            TransactionReq.from_json({other: value for other, value in REQUEST.items() if other != key})
    values: list[object] = [None, [], "ASSIGNED", 1, math.inf]
    for value in values:
        with pytest.raises(RequestError, match="is an object"):
            TransactionReq.from_json(value)


def mostly(*strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Valid values more often than not: a request of nine fields would hardly ever be right otherwise."""
    return st.one_of(*strategies, *strategies, *strategies, any_json)


flags = st.sampled_from(powermeter.IDENTIFICATION_FLAGS)
requests = any_json | st.fixed_dictionaries(
    {
        "evse_id": mostly(any_text),
        "transaction_id": mostly(any_text),
        "identification_status": mostly(st.sampled_from(powermeter.IDENTIFICATION_STATUS)),
        "identification_type": mostly(st.sampled_from(powermeter.IDENTIFICATION_TYPE)),
        "identification_flags": mostly(st.lists(flags, max_size=4), st.lists(flags, max_size=6)),
    },
    optional={
        "identification_level": mostly(st.sampled_from(powermeter.IDENTIFICATION_LEVEL)),
        "identification_data": mostly(any_text),
        "tariff_text": mostly(st.text(max_size=250)),
        "transactionId": any_json,
    },
)


@given(requests)
def test_what_everest_allows_is_read_and_nothing_else(value: object) -> None:
    expected = pytest.raises(RequestError) if problems(of_type("/powermeter#/TransactionReq"), value) else nullcontext()
    with expected:
        TransactionReq.from_json(value)


def test_a_tariff_text_may_be_longer_than_everest_allows() -> None:
    """It is cut where it is signed: no tariff text keeps a charger from charging."""
    value = REQUEST | {"tariff_text": "x" * 251}
    assert problems(of_type("/powermeter#/TransactionReq"), value) != []
    assert TransactionReq.from_json(value).tariff_text == "x" * 251
