"""The settings: what they may be, and what is said of a wrong one. Their names: `tests.test_everest_manifest`."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.config import SETTINGS, Setting, Settings, from_text, shown
from iem_dcr.errors import ConfigError

NUMBERS = [(it.key, it.minimum, it.maximum) for it in SETTINGS if it.minimum is not None and it.maximum is not None]
KEYS = [setting.key for setting in SETTINGS]

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def problems_of(values: dict[str, Any]) -> tuple[str, ...]:
    try:
        Settings.of(values)
    except ConfigError as error:
        return error.problems or ("a ConfigError has to say why",)
    return ()


def test_without_a_word_every_setting_has_its_default_and_a_description() -> None:
    assert asdict(Settings.of()) == asdict(Settings.of({})) == {setting.key: setting.default for setting in SETTINGS}
    assert all(setting.description for setting in SETTINGS)


@pytest.mark.parametrize(("key", "low", "high"), NUMBERS)
def test_a_number_keeps_its_range(key: str, low: int, high: int) -> None:
    smallest = 1 if key == "port_http" else low
    for good in (smallest, high):
        assert asdict(Settings.of({key: good}))[key] == good
    for bad in (low - 1, high + 1, -(10**17)):
        assert problems_of({key: bad}) == (f"{key} is {bad}: expected a whole number from {low} to {high}",)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_a_value_keeps_its_type(setting: Setting) -> None:
    wrong: dict[type, list[object]] = {
        str: [1, True, None, ["a"]],
        int: [True, "80", 80.0, None],
        bool: [1, "true", None],
    }
    for value in wrong[setting.kind]:
        (problem,) = problems_of({setting.key: value})
        assert problem == f"{setting.key} is {shown(value)}: expected {setting.expected}"


HOST = "the address or host name of the meter"
PRINTABLE = "ASCII letters, digits and signs, not empty, without | and control characters"
ZONE = "±HHMM (hours to 14, minutes to 59) or an IANA name this host knows"
NO_ZONES = [
    "", "+01:00", "0100", "+1500", "+0160", "+01", "CEST ", "Europe/Nowhere", "../etc/passwd", "\0", "Europe",
    "Europe/", "/usr/share/zoneinfo/UTC", "zone.tab", "localtime", "right/UTC", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize(("key", "values", "expected"), [
    ("ip_address", ["", "10.0.0.1 ", "meter\n", "[fe80::1]", "a:b:c", "a..b", "10.0.0", "1.2.3.4.5", "m" * 64], HOST),
    ("ip_address", ["http://10.0.0.1", "10.0.0.1:80", "10.0.0.1/counter"], "without scheme, port or path"),
    ("port_http", [0], "a port from 1 to 65535"), ("CT", ["", "DE|1", "DE\t1", "DE\x7f1", "DEÄ1", "DE€"], PRINTABLE),
    ("CI", ["", "DE|1", "DE\t1", "DE\x7f1", "DEÄ1", "DE€"], PRINTABLE), ("timezone", NO_ZONES, ZONE),
    ("IL_default", ["UNKNOWN", "none"], "one of NONE, HEARSAY, TRUSTED, VERIFIED, CERTIFIED, SECURE"),
    ("meter_serial", ["1TST|1"], "the serial number as the meter gives it (MS), or nothing"),
    ("journal_path", ["/var/lib/", "/", ".", "..", "/var/..", "a\0b", "a\nb", "\ud800"],
     "auto, off, or the path of a file in a folder that exists"),
    ("US", [1, "no"], "true or false"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_what_cannot_work_is_named(key: str, values: list[object], expected: str) -> None:
    for value in values:
        (problem,) = problems_of({key: value})
        assert problem.startswith(f"{key} is ")
        assert expected in problem
        assert problem.isprintable()
        if isinstance(value, str) and value.isprintable() and len(value) < 50:
            assert f"{key} is {value!r}: " in problem


@pytest.mark.parametrize(("key", "values"), [
    ("ip_address", ["10.0.0.1", "meter", "meter.charger.local", "fe80::1%eth0", "::1", "zähler"]),
    ("IL_default", ["NONE", "HEARSAY", "TRUSTED", "VERIFIED", "CERTIFIED", "SECURE"]),
    ("TT_initial", ["0,42 €/kWh | Nacht\n" * 50]),  # a tariff text never keeps a charger from starting
    ("journal_path", ["/var/lib/iem-dcr/receipts.db"]),
    ("timezone", ["+0000", "-1400", "+1459", "+0545", "UTC", "Europe/Berlin", "America/New_York"]),
])  # fmt: skip
def test_what_works_is_taken_as_it_is(key: str, values: list[str]) -> None:
    for value in values:
        settings = Settings.of({key: value})
        assert getattr(settings, key) == value
        if key == "timezone":
            assert settings.zone().eu_summer_time is (value == "+0000")
            assert Settings.of({key: value, "timezone_handle_DST": False}).zone().eu_summer_time is False


def test_an_unknown_key_is_named_with_the_known_ones() -> None:
    (problem,) = problems_of({"ip_adress": "10.0.0.1"})
    assert problem.startswith("ip_adress is not a setting: expected one of CI, CT, ")
    assert all(key in problem for key in KEYS)
    assert problems_of({7: 1})[0].startswith("7 is not a setting")  # type: ignore[dict-item]  # what a caller may get wrong


def test_all_mistakes_are_said_at_once() -> None:
    wrong = {"port_http": 0, "CI": "", "US": "no", "timezone": "CET+1", "Port": 80, "IL_default": "LOW"}
    with pytest.raises(ConfigError) as error:
        Settings.of(wrong)
    assert {problem.split(" ")[0] for problem in error.value.problems} == set(wrong)
    assert str(error.value) == "; ".join(error.value.problems)


def test_a_value_without_end_is_not_shown() -> None:
    nested: list[object] = []
    for _ in range(sys.getrecursionlimit() * 2):
        nested = [nested]
    assert problems_of({"CT": nested}) == ("CT is a list: expected a text",)
    assert "port_http is a number of more than 18 digits" in problems_of({"port_http": 10**5000})[0]
    assert len(problems_of({"ip_address": "/" * 10**6})[0]) < 200


TEXTS = st.sampled_from(["timezone", "ip_address", "CT", "meter_serial", "journal_path"])


@given(
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), any_json, max_size=6)
    | st.dictionaries(TEXTS, st.text(), min_size=1)
)
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
        key: st.integers(max(1, low) if key == "port_http" else low, high) for key, low, high in NUMBERS
    }
    good |= {setting.key: st.booleans() for setting in SETTINGS if setting.kind is bool}
    good |= {key: st.text("abcDEF019*-_", min_size=1, max_size=30) for key in ("CT", "CI", "meter_serial")}
    values = data.draw(st.fixed_dictionaries({}, optional=good))
    assert asdict(Settings.of(values)) == asdict(Settings.of()) | values
    for key, value in values.items():
        written = str(value).lower() if isinstance(value, bool) else str(value)
        assert from_text(key, written) == value
        assert type(from_text(key, written)) is type(value)


@pytest.mark.parametrize(("key", "text", "reason"), [
    ("US", "yes", "US is 'yes': expected true or false"), ("US", "1", "expected true or false"),
    ("port_http", "", "expected a whole number from 0 to 65535"), ("port_http", "80.0", "expected a whole number"),
    ("port_http", "9" * 5000, "expected a whole number"), ("ipaddress", "10.0.0.1", "ipaddress is not a setting"),
], ids=range(6))  # fmt: skip
def test_a_text_that_is_no_such_value_is_refused(key: str, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        from_text(key, text)
