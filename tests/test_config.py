"""The settings: what they are called, what they may be, and what is said of a wrong one."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.config import SETTINGS, Settings, from_text
from iem_dcr.errors import ConfigError

# key, type, default, smallest, largest: first the vendor's twelve, then the others.
VENDORS: list[tuple[str, type, object, int | None, int | None]] = [
    ("ip_address", str, "192.168.60.12", None, None),
    ("port_http", int, 80, 0, 65535),
    ("timezone", str, "+0100", None, None),
    ("timezone_handle_DST", bool, True, None, None),
    ("datetime_resync_interval", int, 2, 1, 24),
    ("resilience_initial_connection_retry_delay", int, 10000, 1000, 65535),
    ("resilience_transaction_request_retries", int, 3, 0, 5),
    ("resilience_transaction_request_retry_delay", int, 250, 200, 1000),
    ("CT", str, "EVSEID", None, None),
    ("CI", str, "1234", None, None),
    ("TT_initial", str, "", None, None),
    ("US", bool, False, None, None),
]
OTHERS: list[tuple[str, type, object, int | None, int | None]] = [
    ("command_timeout_ms", int, 5000, 500, 20000),
    ("refuse_start_with_error", bool, False, None, None),
    ("initial_connection_wait_ms", int, 30000, 0, 60000),
    ("stop_current_wait_ms", int, 10000, 0, 30000),
    ("IL_default", str, "NONE", None, None),
    ("meter_serial", str, "", None, None),
    ("strict_transaction_ids", bool, False, None, None),
    ("verify_receipts", bool, True, None, None),
    ("journal_path", str, "auto", None, None),
    ("journal_keep_days", int, 365, 0, 36500),
]
TABLE = VENDORS + OTHERS
NUMBERS = [
    (key, low, high) for key, kind, _, low, high in TABLE if kind is int and low is not None and high is not None
]
KEYS = [key for key, *_ in TABLE]

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def refused(values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        Settings.of(values)
    return error.value.problems


def problems_of(values: dict[str, Any]) -> tuple[str, ...]:
    try:
        Settings.of(values)
    except ConfigError as error:
        return error.problems or ("a ConfigError has to say why",)
    return ()


def test_the_table_is_the_one_of_the_vendor_and_ours() -> None:
    assert [(s.key, s.kind, s.default, s.minimum, s.maximum) for s in SETTINGS] == TABLE
    assert all(setting.description for setting in SETTINGS)


def test_defaults() -> None:
    assert asdict(Settings.of()) == {key: default for key, _, default, _, _ in TABLE}
    assert Settings.of({}) == Settings.of(None)


def test_every_key_is_taken() -> None:
    values = {
        "ip_address": "meter.local", "port_http": 8080, "timezone": "Europe/Berlin", "timezone_handle_DST": False,
        "datetime_resync_interval": 24, "resilience_initial_connection_retry_delay": 65535,
        "resilience_transaction_request_retries": 0, "resilience_transaction_request_retry_delay": 1000,
        "CT": "CBIDC", "CI": "DE*PNX*E1234567*1", "TT_initial": "0,42 €/kWh", "US": True, "command_timeout_ms": 500,
        "refuse_start_with_error": True, "initial_connection_wait_ms": 0, "stop_current_wait_ms": 30000,
        "IL_default": "SECURE", "meter_serial": "1TST0000000001", "strict_transaction_ids": True,
        "verify_receipts": False, "journal_path": "/var/lib/iem-dcr/receipts.db", "journal_keep_days": 0,
    }  # fmt: skip
    assert asdict(Settings.of(values)) == values
    assert list(values) == KEYS


@pytest.mark.parametrize(("key", "low", "high"), NUMBERS)
def test_a_number_keeps_its_range(key: str, low: int, high: int) -> None:
    smallest = 1 if key == "port_http" else low
    for good in (smallest, high):
        assert asdict(Settings.of({key: good}))[key] == good
    for bad in (low - 1, high + 1, -(10**30)):
        (problem,) = refused({key: bad})
        assert problem.startswith(f"{key} is ")
        assert problem.endswith(f": expected a whole number from {low} to {high}")
    assert f"{key} is {high + 1}: " in refused({key: high + 1})[0]


@pytest.mark.parametrize(("key", "kind"), [(key, kind) for key, kind, *_ in TABLE])
def test_a_value_keeps_its_type(key: str, kind: type) -> None:
    wrong: dict[type, list[object]] = {
        str: [1, True, None, ["a"]],
        int: [True, "80", 80.0, None],
        bool: [1, 0, "true", None],
    }
    for value in wrong[kind]:
        (problem,) = refused({key: value})
        assert problem.startswith(f"{key} is ")
        assert ": expected " in problem


def test_true_is_no_number_and_one_is_not_true() -> None:
    assert refused({"datetime_resync_interval": True}) == (
        "datetime_resync_interval is true: expected a whole number from 1 to 24",
    )
    assert refused({"US": 1}) == ("US is 1: expected true or false",)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ip_address", "", "the address or host name of the meter"),
        ("ip_address", "http://192.168.60.12", "without scheme, port or path"),
        ("ip_address", "192.168.60.12:80", "without scheme, port or path"),
        ("ip_address", "192.168.60.12/counter", "without scheme, port or path"),
        ("ip_address", "192.168.60.12 ", "the address or host name of the meter"),
        ("ip_address", "meter\n", "the address or host name of the meter"),
        ("ip_address", "[fe80::1]", "the address or host name of the meter"),
        ("ip_address", "a:b:c", "the address or host name of the meter"),
        ("ip_address", "a..b", "the address or host name of the meter"),
        ("ip_address", "10.0.0", "the address or host name of the meter"),
        ("ip_address", "1.2.3.4.5", "the address or host name of the meter"),
        ("ip_address", "m" * 64, "the address or host name of the meter"),
        ("port_http", 0, "a port from 1 to 65535"),
        *[
            (key, value, "ASCII letters, digits and signs, not empty, without | and control characters")
            for key in ("CT", "CI")
            for value in ("", "DE|1", "DE\t1", "DE\x7f1", "DEÄ1", "DE€")
        ],
        *[
            ("timezone", value, "±HHMM (hours to 14, minutes to 59) or an IANA name this host knows")
            for value in (
                "", "+01:00", "0100", "+1500", "+0160", "+01", "CEST ", "Europe/Nowhere", "../etc/passwd", "\0",
                "Europe", "Europe/", "/usr/share/zoneinfo/UTC", "zone.tab", "localtime", "right/UTC", "\ud800",
            )
        ],
        ("IL_default", "UNKNOWN", "one of NONE, HEARSAY, TRUSTED, VERIFIED, CERTIFIED, SECURE"),
        ("IL_default", "none", "one of NONE, HEARSAY"),
        ("meter_serial", "1TST|1", "the serial number as the meter gives it (MS), or nothing"),
        *[
            ("journal_path", value, "auto, off, or the path of a file in a folder that exists")
            for value in ("/var/lib/", "/", ".", "..", "/var/..", "a\0b", "a\nb", "\ud800")
        ],
    ],
)  # fmt: skip
def test_what_cannot_work_is_named(key: str, value: object, expected: str) -> None:
    (problem,) = refused({key: value})
    assert problem.startswith(f"{key} is ")
    assert expected in problem
    assert problem.isprintable()
    if isinstance(value, int) or (isinstance(value, str) and value.isprintable() and len(value) < 50):
        assert f"{key} is {value!r}: " in problem


@pytest.mark.parametrize("address", ["10.0.0.1", "meter", "meter.charger.local", "fe80::1%eth0", "::1", "zähler"])
def test_addresses(address: str) -> None:
    assert Settings.of({"ip_address": address}).ip_address == address


@pytest.mark.parametrize("level", ["NONE", "HEARSAY", "TRUSTED", "VERIFIED", "CERTIFIED", "SECURE"])
def test_levels_that_do_for_billing(level: str) -> None:
    assert Settings.of({"IL_default": level}).IL_default == level


@pytest.mark.parametrize("name", ["+0000", "-1400", "+1459", "+0545", "UTC", "Europe/Berlin", "America/New_York"])
def test_zones(name: str) -> None:
    zone = Settings.of({"timezone": name}).zone()
    assert zone.eu_summer_time is (name == "+0000")
    assert Settings.of({"timezone": name, "timezone_handle_DST": False}).zone().eu_summer_time is False


def test_a_tariff_text_never_keeps_a_charger_from_starting() -> None:
    text = "0,42 €/kWh | Nacht\n" * 50
    assert Settings.of({"TT_initial": text}).TT_initial == text


def test_an_unknown_key_is_named_with_the_known_ones() -> None:
    (problem,) = refused({"ip_adress": "10.0.0.1"})
    assert problem.startswith("ip_adress is not a setting: expected one of CI, CT, ")
    assert all(key in problem for key in KEYS)
    assert refused({7: 1})[0].startswith("7 is not a setting")  # type: ignore[dict-item]  # what a caller may get wrong


def test_all_mistakes_are_said_at_once() -> None:
    problems = refused({"port_http": 0, "CI": "", "US": "no", "timezone": "CET+1", "Port": 80, "IL_default": "LOW"})
    assert sorted(problem.split(" ")[0] for problem in problems) == [
        "CI", "IL_default", "Port", "US", "port_http", "timezone",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as error:
        Settings.of({"port_http": 0, "CI": ""})
    assert str(error.value) == "; ".join(error.value.problems)
    assert len(error.value.problems) == 2


def test_a_value_without_end_is_not_shown() -> None:
    nested: list[object] = []
    for _ in range(sys.getrecursionlimit() * 2):
        nested = [nested]
    assert refused({"CT": nested}) == ("CT is a list: expected a text",)
    assert "port_http is a number of more than 18 digits" in refused({"port_http": 10**5000})[0]
    assert len(refused({"ip_address": "/" * 10**6})[0]) < 200


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), any_json, max_size=6))
def test_any_mapping_gives_settings_or_a_config_error(values: dict[str, Any]) -> None:
    problems = problems_of(values)
    assert all(problem.isprintable() and " expected " in problem for problem in problems)
    if not problems:
        settings = Settings.of(values)
        assert asdict(settings) | values == asdict(settings)
        settings.zone()


@given(st.data())
def test_what_is_allowed_is_taken_as_it_is_also_from_text(data: st.DataObject) -> None:
    good: dict[str, st.SearchStrategy[object]] = {
        setting.key: st.integers(
            max(1, setting.minimum) if setting.key == "port_http" else setting.minimum, setting.maximum
        )
        for setting in SETTINGS
        if setting.minimum is not None and setting.maximum is not None
    }
    good |= {setting.key: st.booleans() for setting in SETTINGS if setting.kind is bool}
    good |= {key: st.text("abcDEF019*-_", min_size=1, max_size=30) for key in ("CT", "CI", "meter_serial")}
    values = data.draw(st.fixed_dictionaries({}, optional=good))
    assert asdict(Settings.of(values)) == asdict(Settings.of()) | values
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in values.items()}
    assert {key: from_text(key, text) for key, text in texts.items()} == values


@given(st.text())
def test_any_zone_and_address_is_taken_or_refused(text: str) -> None:
    for key in ("timezone", "ip_address", "CT", "meter_serial", "journal_path"):
        problems = problems_of({key: text})
        assert all(problem.startswith(f"{key} is ") for problem in problems)
        if not problems:
            Settings.of({key: text}).zone()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("CT", "CBIDC", "CBIDC"),
        ("CI", "1234", "1234"),
        ("TT_initial", "", ""),
        ("port_http", "8080", 8080),
        ("port_http", "-1", -1),
        ("US", "true", True),
        ("verify_receipts", "False", False),
    ],
)
def test_reading_from_text(key: str, text: str, value: object) -> None:
    read = from_text(key, text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("US", "yes", "US is 'yes': expected true or false"),
        ("US", "1", "expected true or false"),
        ("port_http", "", "expected a whole number from 0 to 65535"),
        ("port_http", "80.0", "expected a whole number"),
        ("port_http", "9" * 5000, "expected a whole number"),
        ("ipaddress", "10.0.0.1", "ipaddress is not a setting"),
    ],
)
def test_a_text_that_is_no_such_value(key: str, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        from_text(key, text)
