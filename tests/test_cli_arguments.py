"""The command line's words: addresses, KEY=VALUE, and every wrong one ends with exit 2 before anything is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr import __version__
from iem_dcr.cli.arguments import Address, parse_address
from iem_dcr.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Sequence

NOBODY = "127.0.0.1:9"
"""Nothing listens there; a command that asked it would end with exit 1."""


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.168.60.12", "192.168.60.12", 80),
        ("meter.local:8080", "meter.local", 8080),
        ("meter_1", "meter_1", 80),
        ("localhost:65535", "localhost", 65535),
        ("[fe80::1]:80", "fe80::1", 80),
        ("[fe80::1%eth0]:8080", "fe80::1%eth0", 8080),
        ("[::1]", "::1", 80),
        ("fe80::1", "fe80::1", 80),
    ],
)
def test_address(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize("text", [
    "", ":80", "meter:", "meter:0", "meter:65536", "meter:eighty", "meter:٨٠", "meter:-1", "8080", "192.168.60.999",
    "192.168.60", "a b", "a/b", "a..b", "user@host", "a" * 64, "[::1", "[meter]:80", "1:2:3", "[::1]:",
])  # fmt: skip
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="expected a"):
        parse_address(text)


@given(st.text() | st.text(alphabet="[]:%.-_0123456789abfx/", max_size=24))
def test_an_address_reads_back_or_is_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert 1 <= address.port <= 65535
    assert parse_address(str(address)) == address


def exit_of(arguments: Sequence[str]) -> object:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


SESSION = ["session", NOBODY, "--id", "04AB"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nothing"], "No such command"),
        (["--nothing"], "No such option"),
        (["read"], "Missing argument"),
        (["read", "meter:x"], "the port is 'x'"),
        (["session", NOBODY], "--id"),
        (["session", "http://meter/", "--id", "04AB"], "without http://"),
        (["session", NOBODY, "--id", ""], "--id"),
        (["session", NOBODY, "--id", "a|b"], "ASCII"),
        ([*SESSION, "--evse-id", ""], "--evse-id"),
        ([*SESSION, "--evse-id", "DE|1"], "ASCII"),
        ([*SESSION, "--transaction-id", ""], "--transaction-id"),
        ([*SESSION, "--id-type", "RFID"], "--id-type"),
        ([*SESSION, "--seconds", "-1"], "--seconds"),
        ([*SESSION, "--seconds", "nan"], "--seconds"),
        ([*SESSION, "--seconds", "x"], "'x' is not a number of seconds"),
        ([*SESSION, "--connect-seconds", "0"], "--connect-seconds"),
        ([*SESSION, "--set", "CI"], "KEY=VALUE"),
        ([*SESSION, "--set", "=1"], "KEY=VALUE"),
        ([*SESSION, "--set", "CJ=1"], "CJ is not a setting: expected one of CI, CT"),
        ([*SESSION, "--set", "CI=ä"], "CI is 'ä': expected ASCII"),
        ([*SESSION, "--set", "port_http=81"], "HOST"),
        ([*SESSION, "--set", "ip_address=::1"], "HOST"),
        ([*SESSION, "--set", "CI=A", "--evse-id", "B"], "differ"),
        (["simulate", "--port", "65536"], "--port"),
        (["simulate", "--firmware", "v3"], "firmware: 'v3' is not one of"),
        (["simulate", "--signing-delay", "nan"], "signing_delay_s"),
        (["simulate", "--serial", "\x1b[31m"], "MS"),
        (["simulate", "--set", "no_such=1"], "no_such: no such option"),
        (["watch"], "give the addresses of meters"),
        (["watch", "http://x/"], "without http://"),
        (["watch", NOBODY, NOBODY], f"{NOBODY}: given more than once"),
        (["watch", NOBODY, "--count", "0"], "--count"),
        (["verify", __file__, "--key", " "], "the key is empty"),
        (["verify", __file__, "--key", "00", "--key-file", __file__], "give one of them"),
        (["verify", __file__, "--key-file", "no-such-file"], "'no-such-file': No such file"),
        (["verify", "no-such-file"], "'no-such-file': No such file"),
        (["receipts", "burn"], "No such command"),
        (["receipts", "list", "--journal", __file__, "--from", "yesterday"], "expected 2026-03-01"),
        (["receipts", "list", "--journal", __file__, "--to", "9999-12-31"], "expected 2026-03-01"),
        (["receipts", "export", "--journal", __file__, "--format", "pdf"], "--format"),
        (["receipts", "forget", "--journal", __file__], "--id or --transaction"),
        (["receipts", "forget", "--journal", __file__, "--id", "04AB", "--from", "2026-03-01"], "No such option"),
        (["demo", "--seconds", "0"], "--seconds"),
    ],
)
def test_a_wrong_word_is_exit_2_and_says_why(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Error: " in err
    assert why in err
    assert "\x1b" not in err


@pytest.mark.parametrize("command", [
    [], ["demo"], ["read"], ["receipts"], ["receipts", "export"], ["receipts", "forget"], ["receipts", "list"],
    ["receipts", "show"], ["session"], ["simulate"], ["verify"], ["watch"],
])  # fmt: skip
def test_help_and_version_of_every_command(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of([*command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert (out.partition("iem-dcr")[0], err) == ("Usage: ", "")
    assert exit_of([*command, "--version"]) == 0
    assert capsys.readouterr() == (f"iem-dcr {__version__}\n", "")
