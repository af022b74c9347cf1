"""The service's configuration file: what is right in one, and every mistake at once."""

from __future__ import annotations

import itertools
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iem_dcr.config import SETTINGS, Settings, shown
from iem_dcr.errors import ConfigError
from iem_dcr.everest_api.mqtt_settings import MQTT, MqttSettings
from iem_dcr.service.config import MAX_BYTES, MeterConfig, ServiceConfig
from iem_dcr.service.web_settings import WebSettings
from tests.support.certificates import make_certificates

if TYPE_CHECKING:
    from collections.abc import Callable

Write: TypeAlias = "Callable[[str | bytes], Path]"

PM1 = '[[meter]] 1 (module_id "pm1")'
MODULE_ID = "the id of EVerest's module powermeter_API: a text, not empty, without / + #"
HOST = "the address or host name"
TOKEN = "0123456789abcdef"  # noqa: S105  one of tests
METER = '[[meter]]\nmodule_id = "pm1"\n'


@pytest.fixture
def written(tmp_path: Path) -> Write:
    """Return what writes a configuration file."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "meters.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o600)
        return path

    return write


def problems(path: Path) -> list[str]:
    """Return what is wrong with a file, without its name in front."""
    with pytest.raises(ConfigError) as caught:
        ServiceConfig.load(path)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)
    assert all("\n" not in problem for problem in caught.value.problems)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


# --- what is right ---


def test_the_least(written: Write) -> None:
    config = ServiceConfig.load(written("[[meter]]\n"))
    assert config == ServiceConfig(MqttSettings(), (MeterConfig(None, Settings.of()),))
    assert config.meters[0].address == "192.168.60.12:80"
    from_another_editor = b"\xef\xbb\xbf" + METER.replace("\n", "\r\n").encode()
    assert ServiceConfig.load(written(from_another_editor)).meters[0].module_id == "pm1"
    mqtt = ServiceConfig.load(written(f"[mqtt]\ntls = true\nprotocol = 5\n{METER}")).mqtt
    assert (mqtt.tls, mqtt.port, mqtt.protocol) == (True, 8883, "5")


def test_everything(written: Write, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    (tmp_path / "secret").write_text("p:w\n", encoding="utf-8")
    files = {"ca_file": made.ca, "cert_file": made.client_cert, "key_file": made.client_key}
    fields = {"host": "fd00::1", "port": 8884, "user": "charger", "protocol": "3.1.1", "client_id": "depot"} | files
    beside = {"ca_file": Path(made.ca).name, "password_file": "secret"}
    mqtt = "\n".join(f"{key} = {json.dumps(value)}" for key, value in (fields | beside).items())
    first, second = 'module_id = "pm1"\nip_address = "fd00::2"\nUS = true', 'module_id = "pm2"\nport_http = 8080'
    config = ServiceConfig.load(written(f"[mqtt]\n{mqtt}\n[[meter]]\n{first}\n[[meter]]\n{second}\n"))
    assert config.mqtt == MqttSettings(tls=True, password_file=str(tmp_path / "secret"), **fields)  # type: ignore[arg-type]
    assert config.meters[0] == MeterConfig("pm1", Settings.of({"ip_address": "fd00::2", "US": True}))
    assert [meter.address for meter in config.meters] == ["[fd00::2]:80", "192.168.60.12:8080"]


def test_every_setting_of_a_meter_is_taken(written: Write) -> None:
    lines = [f"{setting.key} = {json.dumps(setting.default)}\n" for setting in SETTINGS]
    assert ServiceConfig.load(written(METER + "".join(lines))).meters == (MeterConfig("pm1", Settings.of()),)
    found = problems(written(METER + "".join(f"{setting.key} = 1.5\n" for setting in SETTINGS)))
    assert found == [f"{PM1} {setting.key} is 1.5: expected {setting.expected}" for setting in SETTINGS]


@pytest.mark.parametrize(("given", "found"), [
    ("receipts.db", "FOLDER/receipts.db"), ("./auto", "FOLDER/auto"), ("/var/lib/a.db", "/var/lib/a.db"),
    ("auto", "auto"), ("off", "off"), ("", ""),
])  # fmt: skip
def test_a_journal_is_beside_the_file_that_names_it(written: Write, tmp_path: Path, given: str, found: str) -> None:
    config = ServiceConfig.load(written(f"{METER}\njournal_path = '{given}'\n"))
    assert config.meters[0].settings.journal_path == found.replace("FOLDER", str(tmp_path))


# --- what is wrong ---


def test_every_mistake_at_once(written: Write, tmp_path: Path) -> None:
    path = written(
        """
        verbose = true
        [mqqt]
        [mqtt]
        hots = "localhost"
        port = 70000
        password = "secret"
        protocol = "4"
        key_file = "nowhere.pem"
        [[meter]]
        ip_adress = "10.0.0.1"
        port_http = "80"
        [[meter]]
        module_id = "a/b"
        port_http = 0
        [[meter]]
        module_id = "pm3"
        ip_address = "10.0.0.3"
        [[meter]]
        module_id = "pm3"
        ip_address = "10.0.0.3"
        zzz = 1
        """
    )
    first, again = '[[meter]] 3 (module_id "pm3")', '[[meter]] 4 (module_id "pm3")'
    assert problems(path) == [
        "verbose: stands before any table: expected [mqtt], [web] or [[meter]] above it",
        "[mqqt]: no such table: expected [mqtt], [web] or [[meter]]",
        "[mqtt] hots: no such key: did you mean host?",
        "[mqtt] port is 70000: expected a whole number from 0 to 65535",
        "[mqtt] protocol is '4': expected one of 5, 3.1.1",
        "[mqtt] user: expected one where there is a password",
        f"[mqtt] key_file is {shown(f'{tmp_path}/nowhere.pem')}: expected a cert_file beside it",
        "[[meter]] 1 module_id: expected one for every meter if there is more than one",
        "[[meter]] 1 ip_adress: no such key: did you mean ip_address?",
        "[[meter]] 1 port_http is '80': expected a whole number from 0 to 65535",
        f"[[meter]] 2 (module_id \"a/b\") module_id is 'a/b': expected {MODULE_ID}",
        '[[meter]] 2 (module_id "a/b") port_http is 0: expected a port from 1 to 65535 (the meter\'s own is 80)',
        f"{again} module_id: is already that of {first}: expected another",
        f"{again} zzz: no such key: expected one of "
        + ", ".join(sorted(["module_id", *(setting.key for setting in SETTINGS)])),
        f"{again} ip_address: 10.0.0.3:80 is already the meter of {first}: expected another address or port_http",
    ]


@pytest.mark.parametrize(("content", "problem"), [
    ("", "[[meter]]: expected at least one"),
    ("[meter]\n", "[[meter]]: expected a table [[meter]], in two brackets, for each meter"),
    ("meter = [1]\n", "[[meter]]: expected a table [[meter]], in two brackets, for each meter"),
    (f"[[mqtt]]\n{METER}", "[mqtt]: expected one table"), (f"web = 3\n{METER}", "[web]: expected one table"),
    (f"{METER}[logging]\n", "[logging]: no such table: expected [mqtt], [web] or [[meter]]"),
    ("[mqtt\n", "not TOML: Expected ']' at the end of a table declaration (at line 1, column 6)"),
    (b"\n\nx = '\xe4'\n", "line 3: not UTF-8, in which TOML is written"),
    ("[[meter]]\nmodule_id = 1\n", f"[[meter]] 1 module_id is 1: expected {MODULE_ID}"),
    (f"{METER}ip_address = 1979-05-27\n", f"{PM1} ip_address is a date: expected a text"),
    (f"[mqtt]\nuser = 'u'\npassword = 12345\n{METER}", "[mqtt] password: expected a text"),
    (f"[mqtt]\nclient_id = 5\n{METER}", "[mqtt] client_id is 5: expected a text"),
], ids=itertools.count())  # fmt: skip
def test_one_mistake(written: Write, content: str | bytes, problem: str) -> None:
    assert problems(written(content)) == [problem]


@pytest.mark.parametrize(
    ("one", "other"), [("10.0.0.1", "10.0.0.1"), ("meter.local", "Meter.Local."), ("fd00::1", "fd00:0::0001")]
)
def test_one_meter_twice(written: Write, one: str, other: str) -> None:
    pair = f"[[meter]]\nmodule_id = 'a'\nip_address = '{one}'\n[[meter]]\nmodule_id = 'b'\nip_address = '{other}'\n"
    (problem,) = problems(written(pair))
    assert problem.startswith('[[meter]] 2 (module_id "b") ip_address: ')
    assert len(ServiceConfig.load(written(pair + "port_http = 81\n")).meters) == 2
    found = problems(written(pair + "CI = 5\n"))
    assert [each.partition(": ")[0] for each in found] == [
        '[[meter]] 2 (module_id "b") CI is 5',
        '[[meter]] 2 (module_id "b") ip_address',
    ], "whatever else is wrong with it"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    assert problems(tmp_path) == ["cannot be read: Is a directory"]
    assert problems(tmp_path / "none.toml") == ["cannot be read: No such file or directory"]
    large = tmp_path / "large.toml"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert problems(large) == ["is larger than 16 MiB"]
    with pytest.raises(ConfigError) as caught:
        ServiceConfig.load(tmp_path / "a\nb\x1b[2J.toml")
    assert str(caught.value).isprintable()


# --- secrets and certificates ---


def test_files_are_looked_at_whatever_else_is_wrong(written: Write) -> None:
    files = "ca_file = 'ca'\ncert_file = 'cert'\nkey_file = 'key'"
    found = problems(written(f"[mqtt]\nhost = '/'\n{files}\ntls = 3\n{METER}"))
    assert [problem.split()[1] for problem in found] == ["tls", "ca_file", "cert_file", "key_file", "host"]
    assert sum("No such file or directory" in problem for problem in found) == 3


def test_secrets_that_everybody_can_read_are_a_warning_and_are_nowhere_shown(written: Write, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    key = Path(made.client_key)
    key.chmod(0o644)
    secret = f"[mqtt]\nuser = 'u'\npassword = '{TOKEN}'\ncert_file = '{made.client_cert}'\nkey_file = '{key}'\n"
    path = written(f"{secret}[web]\ntoken = '{TOKEN}'\n{METER}")
    path.chmod(0o644)
    config = ServiceConfig.load(path)
    assert config.warnings == tuple(
        f"{path}: {what}"
        for what in (
            "[mqtt] password: all users can read this file: chmod o-r it, or put the password into a password_file",
            f"[mqtt] key_file: all users can read {key}: chmod o-r it",
            "[web] token: all users can read this file: chmod o-r it, or put the token into a token_file",
        )
    )
    assert TOKEN not in repr(config)
    path.chmod(0o640)
    key.chmod(0o600)
    assert ServiceConfig.load(path).warnings == ()
    bad = written(f'[mqtt]\nhost = "/"\npassword = "{TOKEN}\\u0007"\n[web]\ntoken = "{TOKEN} "\n[x]\n{METER}')
    assert TOKEN not in "".join(problems(bad))


# --- anything at all ---

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from([*(setting.key for setting in (*MQTT, *SETTINGS)), "module_id"]) | st.text(max_size=8)
_TABLES = st.dictionaries(_KEYS, _VALUES, max_size=5)


def toml(value: object) -> str:
    """Write a value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    return "true" if value is None or value is True else "false" if value is False else repr(value)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mqtt=_TABLES | _VALUES, meters=st.lists(_TABLES, max_size=3) | _VALUES, others=_TABLES)
def test_any_document_is_taken_or_refused_in_lines(
    tmp_path: Path, mqtt: object, meters: object, others: object
) -> None:
    assert isinstance(others, dict)
    document = others | {"mqtt": mqtt, "meter": meters}
    path = tmp_path / "any.toml"
    path.write_text("".join(f"{toml(str(key))} = {toml(value)}\n" for key, value in document.items()), "utf-8")
    assert tomllib.loads(path.read_text("utf-8"))
    try:
        assert ServiceConfig.load(path).meters
    except ConfigError as error:
        mistakes = error.problems or ("",)
        if not all(mistake.startswith(f"{path}: ") and mistake.isprintable() for mistake in mistakes):
            raise


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 20_000], ids=["long", "deep"])
def test_a_value_without_end(written: Write, value: str) -> None:
    (problem,) = problems(written(f"x = {value}"))
    assert problem.startswith("not TOML: ")


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bytes.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        ServiceConfig.load(path)


# --- [web] ---


def test_a_page(written: Write, tmp_path: Path) -> None:
    assert ServiceConfig.load(written(METER)).web is None
    assert ServiceConfig.load(written("[web]\nlisten = ''\n" + METER)).web is None
    assert ServiceConfig.load(written("[web]\n" + METER)).web == WebSettings("127.0.0.1:8080")
    for listen in ("127.8.9.1:8080", "[::1]:8080", "localhost:8080"):
        assert WebSettings(listen).is_loopback
    secret = tmp_path / "secret"
    secret.write_text(f"{TOKEN}\n", "utf-8")
    secret.chmod(0o644)
    path = written(f"[web]\nlisten = '[::]:80'\ntoken_file = 'secret'\nnames = 'depot.example, Pi.local.'\n{METER}")
    config = ServiceConfig.load(path)
    web = config.web
    assert web is not None
    assert (web.host, web.port, web.is_loopback, web.read_token()) == ("::", 80, False, TOKEN)
    assert web.host_names == {"depot.example", "pi.local"}
    assert config.warnings == (f"{path}: [web] token_file: all users can read {secret}: chmod o-r it",)


@pytest.mark.parametrize(("table", "expected"), [
    ("listen = '0.0.0.0:80'", "listen is '0.0.0.0:80': expected a loopback address, or a token"),
    ("listen = '[::]:8080'", "listen is '[::]:8080': expected a loopback address, or a token"),
    *((f"listen = '{text}'", f"listen is '{text}': expected an IP address and a port, like 127.0.0.1:8080")
      for text in ("depot:80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "::1:8080")),
    ("listen = 8080", "listen is 8080: expected a text"),
    ("token = 'short'", "token: expected 16 to 256 ASCII letters, digits and signs without spaces"),
    ("token = 'has spaces in it, and is long'", "token: expected 16 to 256"),
    (f"token = '{TOKEN}'\ntoken_file = 'meters.toml'", "token_file: expected token or token_file, not both"),
    ("token = 12345678901234567890", "token: expected a text"),
    ("token_file = 'none'", "token_file '"),
    ("token_file = 'meters.toml'", "token_file '"),
    ("token_file = '/dev/zero'", "token_file '/dev/zero' cannot be read: it is a pipe or a device, not a file"),
    ("names = 'depot.example:80'", "names is 'depot.example:80': expected host names without ports"),
    ("names = 'a/b'", "names is 'a/b': expected host names without ports"),
    ("port = 8080", "port: no such key: expected one of listen, names, token, token_file"),
], ids=itertools.count())  # fmt: skip
def test_mistakes_of_the_page(written: Write, table: str, expected: str) -> None:
    (problem,) = problems(written(f"[web]\n{table}\n{METER}"))
    assert problem.startswith(f"[web] {expected}")
    assert "1234567890" not in problem
    assert "has spaces" not in problem
