"""How a broker is reached: defaults, addresses, mistakes, and that the password is never shown."""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.errors import ConfigError
from iem_dcr.everest_api.mqtt_settings import MqttSettings
from tests.support.certificates import make_certificates

if TYPE_CHECKING:
    from pathlib import Path

WORD = "sEcReT"


def problems(**fields: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        MqttSettings(**fields)
    return raised.value.problems


def test_defaults() -> None:
    settings = MqttSettings()
    assert (settings.host, settings.port, settings.protocol) == ("localhost", 1883, "5")
    assert MqttSettings(tls=True).port == 8883
    assert MqttSettings(tls=True, port=1883).port == 1883
    assert settings.tls_context() is None
    assert settings.current_password() is None


def test_the_password_is_not_shown() -> None:
    settings = MqttSettings(user="iem", password=WORD)
    assert WORD not in repr(settings)
    assert WORD not in str(settings)
    assert settings.current_password() == WORD
    said = problems(password=f"{WORD}\n", host="")
    assert len(said) == 3
    assert not any(WORD in line for line in said)


@pytest.mark.parametrize(("url", "expected"), [
    ("mqtt://broker", MqttSettings("broker", 1883)), ("mqtts://broker", MqttSettings("broker", 8883, tls=True)),
    ("mqtt://broker:1234/", MqttSettings("broker", 1234)), ("mqtt://u@10.0.0.1", MqttSettings("10.0.0.1", user="u")),
    ("mqtt://[fe80::1]:1234", MqttSettings("fe80::1", 1234)),
])  # fmt: skip
def test_addresses(url: str, expected: MqttSettings) -> None:
    assert MqttSettings.from_url(url) == expected
    assert MqttSettings("fe80::1").address == "[fe80::1]:1883"


@pytest.mark.parametrize("url", [
    "", "broker", "broker:1883", "http://broker", "mqtt://", "mqtt://:1883", "mqtt://broker:0", "mqtt://broker:65536",
    "mqtt://broker:x", "mqtt://broker/path", "mqtt://broker?a=b", "mqtt://broker#a", "mqtt://[fe80::1",
    "mqtt://iem:%ff@broker", "mqtt://iem:50%@broker", f"mqtt://iem:{WORD}/{WORD}@broker", f"mqtt://iem:{WORD}#@broker",
    f"mqtt://:{WORD}@broker",
])  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        MqttSettings.from_url(url)
    assert WORD not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(("user", "beside", "name"), [
    ("iem", {"user": "iem"}, "user"), (f"iem:{WORD}", {"password": WORD}, "password"),
    (f"iem:{WORD}", {"password_file": "/p"}, "password"),
])  # fmt: skip
def test_what_is_given_in_the_address_and_beside_it(user: str, beside: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        MqttSettings.from_url(f"mqtt://{user}@broker", **beside)
    assert raised.value.problems == (f"{name}: given in the URL and beside it; expected one of them",)
    given = MqttSettings.from_url("mqtts://b", user="iem", ca_file="/ca", key_file=None)
    assert given == MqttSettings("b", tls=True, user="iem", ca_file="/ca")


@given(st.text())
def test_any_address(url: str) -> None:
    for text in (url, f"mqtt://{url}"):
        with contextlib.suppress(ConfigError):
            assert MqttSettings.from_url(text).host


PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=50)


@given(PRINTABLE, PRINTABLE)
def test_any_user_and_password_in_an_address(user: str, password: str) -> None:
    settings = MqttSettings.from_url(f"mqtts://{quote(user, safe='')}:{quote(password, safe='')}@broker")
    assert (settings.user, settings.password) == (user, password)


@pytest.mark.parametrize(("fields", "keys"), [
    ({"host": "mqtt://broker"}, ["host"]), ({"port": 70000}, ["port"]), ({"port": -1}, ["port"]),
    ({"protocol": "4"}, ["protocol"]), ({"client_id": "a\nb"}, ["client_id"]),
    ({"password": WORD}, ["user"]),
    ({"user": "u", "password": WORD, "password_file": "f"}, ["password_file"]), ({"ca_file": "f"}, ["ca_file"]),
    ({"tls": True, "key_file": "f"}, ["key_file"]), ({"tls": True, "ca_file": "a\0b"}, ["ca_file"]),
    ({"host": "a b", "protocol": "3", "cert_file": "f"}, ["host", "protocol", "cert_file"]),
], ids=range(11))  # fmt: skip
def test_all_mistakes_at_once(fields: dict[str, Any], keys: list[str]) -> None:
    said = problems(**fields)
    assert [line.split(" ")[0].rstrip(":") for line in said] == keys
    assert all("expected" in line for line in said)


@pytest.mark.parametrize("name", ["password_file", "ca_file", "cert_file"])
def test_a_pipe_or_a_device_in_the_place_of_a_file_is_neither_waited_for_nor_read_without_end(
    tmp_path: Path, name: str
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (str(pipe), "/dev/zero"):
        settings = MqttSettings(user="iem", tls=True, **{name: place})  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"{name} .*: it is a pipe or a device, not a file"):
            (settings.current_password if name == "password_file" else settings.tls_context)()


def test_the_password_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "password"
    settings = MqttSettings(user="iem", password_file=str(file))
    file.write_text(f"{WORD}\r\n")
    assert settings.current_password() == WORD
    file.write_text(" other ")
    assert settings.current_password() == " other "
    for bad in (b"", b"\n", b"\xff", b"x" * 70_000):
        file.write_bytes(bad)
        with pytest.raises(ConfigError, match="password_file"):
            settings.current_password()
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        settings.current_password()


def test_what_tls_is_done_with(tmp_path: Path) -> None:
    made, other = make_certificates(tmp_path / "made"), make_certificates(tmp_path / "other")
    context = MqttSettings(
        tls=True, ca_file=made.ca, cert_file=made.client_cert, key_file=made.client_key
    ).tls_context()
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert [each["issuer"] for each in context.get_ca_certs()] == [((("commonName", "authority made"),),)]
    broken = tmp_path / "broken"
    broken.write_text("-----BEGIN CERTIFICATE-----\n")
    mistakes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"ca_file": str(broken)}, "ca_file"),
        ({"ca_file": str(tmp_path / "none")}, "ca_file"),
        ({"cert_file": str(broken)}, "cert_file"),
        ({"cert_file": made.client_cert, "key_file": other.client_key}, "key_file"),
    )
    for fields, key in mistakes:
        with pytest.raises(ConfigError, match=key):
            MqttSettings(tls=True, **fields).tls_context()


def test_an_encrypted_key_asks_nobody_for_its_passphrase(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, passphrase=b"secret")
    with pytest.raises(ConfigError, match="encrypted"):
        MqttSettings(tls=True, cert_file=made.client_cert, key_file=made.client_key).tls_context()
