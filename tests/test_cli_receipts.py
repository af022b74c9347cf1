"""iem-dcr receipts: found in a journal, shown, handed on so that they verify, and erased."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from iem_dcr.journal import pins
from iem_dcr.ocmf import parse
from iem_dcr.ocmf.keys import SECP256R1
from tests.support.command_line import Done, begin, finish, run
from tests.support.journals import METER, entries, entry, journal, kept
from tests.support.journals import accepted_payload as payload
from tests.support.ocmf_signing import CurveSigner
from tests.support.terminal import Terminal

SIGNER = CurveSigner(SECP256R1)
KEY = SIGNER.spki
FORMATS = ["transparency", "plain", "csv", "ocpp16", "ocpp201"]


def signed(number: int, **fields: str) -> str:
    return SIGNER.tuple_of(payload(number, **fields))


def raw(number: int) -> str:
    text = payload(number)
    data = b"".join(part.to_bytes(32, "big") for part in SIGNER.numbers(text))
    return f'OCMF|{text}|{{"SD":"{data.hex()}"}}'


def keep(path: Path, *texts: str) -> None:
    async def write() -> None:
        async with journal(path) as opened:
            for number, text in enumerate(texts, 1):
                await opened.keep(kept(1, f"T-{number}", receipt=parse(text), public_key=KEY))

    asyncio.run(write())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of three receipts, of two meters."""
    file = tmp_path / "receipts.sqlite"
    keep(
        file,
        signed(1, ID="04AB1"),
        signed(2, ID="04AB2", end="2026-03-02T12:30:00,000"),
        signed(3, ID="04AB1", meter="OTHER", end="2026-03-03T12:30:00,000"),
    )
    return file


def pinned(path: Path, **meters: str) -> None:
    """Have a driver pin meters, each for an address of one letter."""

    async def write() -> None:
        async with journal(path) as opened:
            for host, serial in meters.items():
                await opened.pin(f"{host}:80", serial)

    asyncio.run(write())


def receipts(what: str, path: Path, *arguments: str) -> Done:
    return run("receipts", what, "--journal", str(path), *arguments)


def test_list(path: Path) -> None:
    done = receipts("list", path)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0] == (
        f"{METER}  T1  T-1  04AB1  2026-03-01T12:00:00,000+0100 S to 2026-03-01T12:30:00,500+0100 S  2.100 kWh  valid"
    )
    assert len(done.out.splitlines()) == 3
    written = receipts("list", path, "--json").events
    assert [entry["ocmf"] for entry in written] == [entry.text for entry in entries(path)]
    assert (written[0]["energy_wh"], written[0]["end"]) == ("2100.000", "2026-03-01T11:30:00.500Z")
    assert written[0]["accepted"] is True


def test_not_accepted_stands_beside_valid(tmp_path: Path) -> None:
    keep(tmp_path / "falling", signed(1, end="2026-03-01T11:00:00,000"))
    line = receipts("list", tmp_path / "falling").out
    assert line.endswith("  valid  not accepted by the transparency software: time-falling\n")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--meter", "OTHER"], ["T3"]),
        (["--transaction", "T-2"], ["T2"]),
        (["--from", "2026-03-02T00:00+01:00"], ["T2", "T3"]),
        (["--to", "2026-03-02T12:30:00+01:00"], ["T1"]),
        (["--from", "2026-03-02T12:30:00+01:00", "--to", "2026-03-02T12:30:01+01:00"], ["T2"]),
        (["--to", "2026-03-03"], ["T1", "T2", "T3"]),
        (["--from", "2026-03-02", "--meter", METER], ["T2"]),
    ],
)
def test_selection(path: Path, arguments: list[str], found: list[str]) -> None:
    assert [entry["pagination"] for entry in receipts("list", path, "--json", *arguments).events] == found


def test_without_a_journal_the_first_that_is_there_is_read_and_named(path: Path) -> None:
    home, none = str(path.parent), str(path.parent / "none")
    if not Path("/var/lib/iem-dcr/receipts.db").exists():
        done = run("receipts", "list", STATE_DIRECTORY=none, XDG_STATE_HOME=home)
        assert (done.status, done.out) == (2, "")
        assert "--journal" in done.err
        assert "There is none in the default folders." in " ".join(done.err.split())
    found = path.parent / "iem-dcr" / "receipts.db"
    found.parent.mkdir()
    path.rename(found)
    done = run("receipts", "list", STATE_DIRECTORY=str(found.parent), XDG_STATE_HOME=none)
    assert (done.status, done.err) == (0, f"Journal: {found}\n")
    assert len(done.out.splitlines()) == 3
    assert run("receipts", "list", "--help", XDG_STATE_HOME=home).err == ""


@pytest.mark.parametrize("what", ["list", "show", "export"])
def test_none_is_exit_1_and_no_journal_is_exit_2_and_names_the_option(path: Path, what: str) -> None:
    done = receipts(what, path, "--transaction", "nobody's")
    assert (done.status, done.out) == (1, "")
    assert "No matching receipt" in done.err
    done = receipts(what, path.with_name("none"))
    assert (done.status, done.out) == (2, "")
    assert f"Invalid value for '--journal': File '{path.with_name('none')}' does not exist." in done.err


def test_show(path: Path) -> None:
    done = receipts("show", path, "--transaction", "T-2")
    assert (done.status, done.err) == (0, "")
    assert "Receipt T2" in done.out
    assert "VALID: the signature matches" in done.out
    assert signed(2, ID="04AB2", end="2026-03-02T12:30:00,000") in done.out


@pytest.mark.parametrize("form", FORMATS)
def test_exported_receipts_verify(path: Path, tmp_path: Path, form: str) -> None:
    file = tmp_path / "exported"
    done = receipts("export", path, "--format", form, "-o", str(file))
    assert (done.status, done.out) == (0, "")
    assert done.err == f"3 receipts written to {file}.\n"
    key = ["--key", KEY] if form == "plain" else []
    verified = run("verify", str(file), "--json", *key)
    assert (verified.status, verified.err) == (0, "")
    found = [event for event in verified.events if event["event"] == "transaction"]
    assert [event["paginations"] for event in found] == [["T1"], ["T2"], ["T3"]]
    assert [event["verdict"] for event in found] == ["accepted"] * 3
    assert receipts("export", path, "--format", form).out == file.read_bytes().decode().replace("\r\n", "\n")


def test_a_raw_signature_is_written_anew_on_request_only(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    keep(path, raw(1))
    done = receipts("export", path, "--format", "plain")
    assert done.out == raw(1) + "\n"
    assert "--reencode-signature re-encodes it" in done.err
    done = receipts("export", path, "--format", "plain", "--reencode-signature")
    assert done.out != raw(1) + "\n"
    assert "was re-encoded as DER" in done.err
    file = tmp_path / "anew"
    file.write_text(done.out)
    (transaction, _) = run("verify", str(file), "--key", KEY, "--json").events
    assert transaction["verdict"] == "accepted"


def test_a_file_that_cannot_be_written_is_exit_1(path: Path, tmp_path: Path) -> None:
    done = receipts("export", path, "-o", str(tmp_path / "none" / "file"))
    assert (done.status, done.out) == (1, "")
    assert "cannot be written: No such file" in done.err


@pytest.mark.parametrize("name", ["receipts.sqlite", "receipts.sqlite-wal", "link", "hard"])
def test_a_journal_is_never_written_over(path: Path, name: str) -> None:
    path.with_name("link").symlink_to(path)
    path.with_name("hard").hardlink_to(path)
    before = path.read_bytes()
    done = receipts("export", path, "-o", str(path.with_name(name)))
    assert (done.status, done.out) == (2, "")
    assert "is the journal itself" in done.err
    assert path.read_bytes() == before


def test_receipts_go_out_in_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    keep(path, signed(1, ID="J\u00fcrgen \u20ac"))
    done = finish(begin("receipts", "export", "--journal", str(path), PYTHONIOENCODING="iso-8859-1:strict"))
    assert done.status == 0
    assert "J\u00fcrgen \u20ac" in done.out


def test_forget(path: Path) -> None:
    done = receipts("forget", path, "--id", "04AB1", "--yes")
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith(f"To be erased from {path}: 2 receipts of id '04AB1'.\n")
    assert done.err.endswith("2 receipts erased.\n")
    assert [entry.text == "" for entry in entries(path)] == [True, False, True]
    assert b"04AB1" not in path.read_bytes()
    listed = receipts("list", path)
    assert listed.out.count("ERASED") == 2
    exported = receipts("export", path, "--format", "plain")
    assert exported.out.count("OCMF|") == 1
    assert exported.err.count("is left out: it was erased") == 2
    none_left = receipts("export", path, "--meter", "OTHER")
    assert (none_left.status, none_left.out) == (1, "")
    again = receipts("forget", path, "--id", "04AB1")
    assert (again.status, again.err) == (1, "No receipt and no note of 04…(5) was found.\n")


def test_forget_counts_notes_of_transactions_without_a_receipt(path: Path) -> None:
    async def note() -> None:
        async with journal(path) as opened:
            await opened.note(entry("T-9", ID="04AB1"))
            await opened.refused("T-8", meter=METER, address="a:80")

    asyncio.run(note())
    done = receipts("forget", path, "--id", "04AB1", "--transaction", "T-8", "--yes")
    assert done.status == 0
    assert "2 receipts and 2 notes of id '04AB1' or transaction 'T-8'.\n" in done.err
    assert done.err.endswith("2 receipts and 2 notes erased.\n")


def test_forget_without_a_terminal_wants_yes(path: Path) -> None:
    done = receipts("forget", path, "--transaction", "T-1")
    assert done.status == 2
    assert "--yes" in done.err
    assert all(entry.text for entry in entries(path))


@pytest.mark.parametrize(("answer", "status"), [("erase", 0), ("yes", 1)])
def test_forget_asks_for_a_word(path: Path, answer: str, status: int) -> None:
    terminal = Terminal("receipts", "forget", "--journal", str(path), "--transaction", "T-1")
    terminal.until("Type 'erase'")
    terminal.type(f"{answer}\n")
    assert terminal.end() == status
    assert (entries(path)[0].text == "") == (status == 0)


# --- pinned meters ---


def test_another_meter_is_accepted_where_one_is_pinned(path: Path) -> None:
    pinned(path, a=METER)
    done = receipts("pin", path, "NEW")
    assert (done.status, done.out, done.err) == (0, "", f"a:80: NEW is accepted instead of {METER}.\n")
    assert pins(path) == {"a:80": "NEW"}
    assert receipts("pin", path, "NEW").err == "a:80: NEW is accepted already.\n"


def test_of_several_the_address_says_which(path: Path) -> None:
    pinned(path, a="A", b="B", c="C")
    done = receipts("pin", path, "B")
    assert (done.status, done.out) == (2, "")
    assert "give --address; pinned are A for a:80, B for b:80, C for c:80" in " ".join(done.err.split())
    done = receipts("pin", path, "B", "--address", "a", "--address", "c:80")
    assert done.err.splitlines() == [
        "a:80: B is accepted instead of A.",
        "c:80: B is accepted instead of C.",
        "Note: it is pinned for b:80 as well.",
    ]
    assert pins(path) == {"a:80": "B", "b:80": "B", "c:80": "B"}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["NEW", "--address", "a:81"], f"no meter is pinned for a:81; pinned are {METER} for a:80"),
        (["NEW", "--address", "a:80", "--address", "x"], "no meter is pinned for x:80;"),
        (["pin"], "expected the serial number as the meter gives it (MS)"),
        (["a|b"], "expected the serial number as the meter gives it (MS)"),
    ],
)
def test_mistakes_change_no_pin(path: Path, words: list[str], what: str) -> None:
    pinned(path, a=METER)
    done = receipts("pin", path, *words)
    assert (done.status, done.out) == (2, "")
    assert what in " ".join(done.err.split())
    assert pins(path) == {"a:80": METER}


def test_a_journal_without_pins_says_who_pins(path: Path) -> None:
    done = receipts("pin", path, "NEW")
    assert (done.status, done.out) == (1, "")
    assert f"no meter is pinned in {path}: a driver with meter_serial pin pins its meter" in " ".join(done.err.split())
    assert "--journal" in done.err


def test_a_pin_that_cannot_be_written_says_so(path: Path) -> None:
    pinned(path, a=METER)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = receipts("pin", path, "NEW")
    assert (done.status, done.out) == (1, "")
    assert "cannot be written: database is locked" in done.err
