"""iem-dcr verify: what it says of receipts, by what it exits, and many of them in one process or in several."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from iem_dcr.cli.checking import BATCH
from iem_dcr.ocmf.keys import SECP256R1
from tests.support.command_line import Done, environment, finish, run
from tests.support.journals import accepted_payload as payload
from tests.support.ocmf_signing import CurveSigner
from tests.support.shared import shared
from tests.support.terminal import Terminal, without_escapes

if TYPE_CHECKING:
    from pathlib import Path

SIGNER = CurveSigner(SECP256R1)
KEY = SIGNER.spki
COUNT = 3 * BATCH
END_AT = BATCH + 50


def signed(number: int, **fields: str) -> str:
    return SIGNER.tuple_of(payload(number, **fields))


def half(number: int, TX: str, rv: str) -> str:
    row = {"TM": f"2026-03-01T1{number}:00:00,000+0100 S", "TX": TX, "ST": "G", "RV": rv, "RI": "1-b:1.8.e"}
    section = {"FV": "1.0", "MS": "M", "PG": f"T{number}", "ID": "04AB", "RD": [row | {"RU": "kWh"}]}
    return SIGNER.tuple_of(json.dumps(section))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "receipts.txt"


def check(file: Path, text: str | bytes, *arguments: str, key: str = KEY) -> Done:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return run("verify", str(file), *(("--key", key) if key else ()), *arguments)


def test_one_receipt(file: Path) -> None:
    done = check(file, signed(7, ID="04ABCD"))
    assert (done.status, done.err) == (0, "")
    assert done.out == (
        "Receipt T7 of meter 1TST0000000001   line 1\n"
        "  User          04ABCD\n"
        "  Begin         2026-03-01 12:00:00 +0100   register 451.795 kWh\n"
        "  End           2026-03-01 12:30:00 +0100   register 459.895 kWh\n"
        "  Energy        8.100 kWh  import 1-b:1.8.e\n"
        "  Verdict       VALID: the signature matches the data and the key\n"
        "\n"
        "1 transaction: 1 valid\n"
    )


def test_exit_status_and_summary(file: Path) -> None:
    good, bad, unreadable = signed(1), signed(2).replace("454.895", "455.895"), signed(3)[:200]
    broken_key = "00" * 5
    for text, key, status, verdict in (
        (good, KEY, 0, "accepted"),
        (bad, KEY, 1, "invalid"),
        (unreadable, KEY, 2, "unreadable"),
        (good, broken_key, 2, "not checked"),
        (good, "", 2, "not checked"),
        (f"{unreadable}\n{good}\n{bad}", KEY, 1, None),
        (f"{good}\n{unreadable}", KEY, 2, None),
    ):
        done = check(file, text, "--json", key=key)
        assert done.status == status
        assert done.err == ""
        summary = done.only("summary")
        assert summary["transactions"] == text.count("OCMF|")
        if verdict:
            assert done.only("transaction")["verdict"] == verdict
            assert summary["verdicts"][verdict] == 1


def test_valid_but_not_accepted_is_exit_0_and_loud(file: Path) -> None:
    done = check(file, SIGNER.tuple_of(payload(1).replace('"ST":"G"', '"ST":"E"')))
    assert done.status == 0
    assert "VALID, but NOT ACCEPTED by the transparency software: status-not-good\n" in done.out
    assert done.out.endswith("1 transaction: 1 valid, but not accepted by the transparency software\n")


def test_begin_and_end_in_tuples_of_their_own(file: Path) -> None:
    texts = [half(5, "E", "3.5"), signed(1), half(4, "B", "1.0"), half(9, "B", "7.0")]
    done = check(file, "\n".join(texts), "--json")
    assert done.status == 0
    whole, pair, alone, summary = done.events
    assert (whole["paginations"], pair["paginations"], alone["paginations"]) == (["T1"], ["T4", "T5"], ["T9"])
    assert (pair["energy_wh"], pair["sources"]) == ("2500.0", ["line 3", "line 1"])
    assert (pair["begin"], pair["end"]) == ("2026-03-01T13:00:00.000Z", "2026-03-01T14:00:00.000Z")
    assert [found["code"] for found in summary["findings"]] == ["pagination-gap"]


def test_standard_input_and_the_documents_key(file: Path) -> None:
    signed_value = {"signed_meter_data": signed(1), "public_key": KEY}
    for arguments in (["verify"], ["verify", "-"]):
        done = subprocess.run(
            [sys.executable, "-m", "iem_dcr", *arguments],
            input=json.dumps(signed_value),
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "compare it with the meter's" in done.stdout
    other = CurveSigner(SECP256R1, secret=5).spki
    done_with_other = check(file, json.dumps(signed_value), key=other)
    assert done_with_other.status == 1
    assert "names another key; the given key was used" in done_with_other.out
    assert "another key" not in check(file, json.dumps(signed_value), key=SIGNER.public.hex()).out


@pytest.mark.parametrize(
    "content",
    [KEY.encode(), f"\ufeff{KEY}\n".encode(), bytes.fromhex(KEY), json.dumps({"SA": "x", "PK": KEY}).encode()],
)
def test_key_file(file: Path, tmp_path: Path, content: bytes) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(content)
    assert check(file, signed(1), "--key-file", str(key_file), key="").status == 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no receipt in it"),
        (b"hello", "no receipt in it"),
        (b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>", "document type declaration"),
        (b"[" * 200_000, "nested too deeply"),
        (b"OCMF|" + b"x" * 17_000_000, "no other tuple begins"),
    ],
)
def test_what_cannot_be_read_is_exit_2(file: Path, content: bytes, why: str) -> None:
    done = check(file, content)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"Error: {file}: ")
    assert why in done.err
    assert done.err.count("\n") == 1


def test_hostile_text_is_shown_harmless(file: Path) -> None:
    done = check(file, signed(1, ID="[red]\\u001b[31m\\u202e\\n\\ud800"))
    assert done.status == 0
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out


def many(file: Path) -> int:
    """Write many receipts: two that are not genuine, one damaged, and two halves, each in another batch."""
    good = [signed(number) for number in range(20)]
    lines = [half(4, "B", "1.0"), *(good[number % 20] for number in range(COUNT))]
    lines.insert(END_AT - 1, half(5, "E", "2.0"))
    lines[200] = good[0].replace("452.895", "952.895")
    lines[COUNT - 50] = good[1].replace("453.895", "953.895")
    lines[400] = good[3][:99]
    file.write_text("\n".join(lines) + "\n")
    return len(lines)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_of_many_only_those_are_shown_that_are_not_accepted(file: Path, jobs: str) -> None:
    count = many(file)
    done = run("verify", str(file), "--key", KEY, "--jobs", jobs)
    assert (done.status, done.err) == (1, "")
    assert re.findall(r"^Receipt .* (line \d+)$", done.out, re.MULTILINE) == [
        "line 201", "line 401", f"line {COUNT - 49}",
    ]  # fmt: skip
    assert f"{count - 4:,} accepted transactions are not shown; --all shows them." in done.out
    assert done.out.endswith(f"{count - 1:,} transactions: {count - 4:,} valid, 2 NOT VALID, 1 not readable\n")
    listed = run("verify", str(file), "--key", KEY, "--json", "--jobs", jobs)
    assert listed.status == 1
    sources = [event["sources"] for event in listed.events if event["event"] == "transaction"]
    expected = [[f"line {number}"] for number in range(2, count + 1)]
    expected[END_AT - 2] = ["line 1", f"line {END_AT}"]
    assert sources == expected, "halves that are known to be a pair are not held until the end"
    shown_all = run("verify", str(file), "--key", KEY, "--all", "--jobs", jobs).out
    assert shown_all.count("  VALID: ") == count - 4


def test_the_bar_is_on_the_terminal_alone(file: Path) -> None:
    many(file)
    with file.with_name("shown").open("w+") as out:
        terminal = Terminal("verify", str(file), "--key", KEY, columns=40, stdout=out.fileno())
        assert terminal.end() == 1
        out.seek(0)
        shown = out.read()
    bars = [line for line in without_escapes(terminal.written).splitlines() if line]
    assert any(re.fullmatch(r"75\d receipts *", line) for line in bars)
    assert not re.search(r"^75\d receipts", shown, re.MULTILINE)
    assert "2 NOT VALID" in shown


def test_an_interruption_leaves_no_process(file: Path) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "iem_dcr", "verify", "-", "--key", KEY, "--jobs", "2"],
        stdin=read,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
        # Where the tests run in the background of a script, the shell has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  as above
    )
    os.close(read)
    many(file)
    with os.fdopen(write, "wb") as feed:
        for _ in range(8):
            feed.write(file.read_bytes())
        feed.flush()
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Receipt ")
        os.killpg(process.pid, signal.SIGINT)
        done = finish(process)  # its pipes end when the last process that holds them has ended
    assert done.status == 130
    assert done.err.strip() == "Interrupted."


def test_a_finding_that_asks_for_nothing_is_shown_on_request(file: Path) -> None:
    text = SIGNER.tuple_of(payload(1).replace("+0100 S", "+0100 U"))
    assert "Finding" not in check(file, text).out
    assert check(file, text, "--all").out.count("time-not-synchronised") == 2
    codes = [found["code"] for found in check(file, text, "--json").only("transaction")["findings"]]
    assert codes == ["time-not-synchronised"] * 2


def test_another_file_is_written_that_the_transparency_software_opens(file: Path) -> None:
    signed_value = {"signedMeterData": signed(1), "publicKey": SIGNER.public.hex()}
    other = file.with_name("other.xml")
    document = f"{json.dumps(signed_value)}\nhello\n{json.dumps(signed_value | {'signedMeterData': signed(2)})}\n"
    done = check(file, document, "--export", str(other), key="")
    assert done.status == 0
    assert done.err == (f"Note: {file}: line 2: neither JSON nor a receipt; skipped\n2 receipts written to {other}.\n")
    again = run("verify", str(other), "--json")
    assert [event["verdict"] for event in again.events if event["event"] == "transaction"] == ["accepted"] * 2
    assert [event["findings"] for event in again.events if event["event"] == "transaction"] == [[], []]


def test_both_directions_are_shown(file: Path) -> None:
    rows = [
        {"TM": f"2026-03-01T1{at}:00:00,000+0100 S", "TX": TX, "ST": "G", "RV": 5 + at * fed, "RI": RI, "RU": "kWh"}
        for at, TX in enumerate("BE")
        for RI, fed in (("1-b:1.8.e", 0), ("1-b:2.8.e", 2))
    ]
    text = SIGNER.tuple_of(json.dumps({"FV": "1.0", "MS": "M", "PG": "T1", "RD": rows}))
    assert "Energy        2.000 kWh  export 1-b:2.8.e, not part of the verdict\n" in check(file, text).out


@pytest.mark.parametrize("order", ["BEBE", "BBEE"])
def test_a_receipt_that_is_there_again_is_no_half_of_its_own(file: Path, order: str) -> None:
    halves = {"B": half(4, "B", "1.0"), "E": half(5, "E", "2.0")}
    done = check(file, "\n".join(halves[kind] for kind in order), "--json")
    assert done.only("transaction")["paginations"] == ["T4", "T5"]
    assert [found["code"] for found in done.only("summary")["findings"]] == ["receipt-repeated"] * 2


def test_genuine() -> None:
    tuple_2025 = str(shared("receipts/iem-dcr-2025-unpadded-der.ocmf"))
    done = run("verify", tuple_2025, "--key-file", str(shared("device/publickey.json")))
    assert done.status == 0
    assert "Verdict       VALID:" in done.out
    for name, status, word in (
        ("iem-dcr-2023-raw-signature.xml", 0, "VALID, but NOT ACCEPTED by the transparency software: signature-form"),
        ("iem-dcr-2023-import-export-does-not-verify.xml", 1, "NOT VALID: the signature does not match"),
    ):
        done = run("verify", str(shared(f"receipts/{name}")))
        assert done.status == status
        assert word in done.out
