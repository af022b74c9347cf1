"""iem-dcr session: what it writes, what it sends, and what its exit status says."""

from __future__ import annotations

import contextlib
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len

from iem_dcr import ocmf
from iem_dcr.cli import charging
from iem_dcr.driver import driver
from tests.support.bench import CI
from tests.support.command_line import Done, Simulator, begin, finish, read_until, run
from tests.support.journals import entries
from tests.support.terminal import Terminal, without_escapes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "04A2B3C4"  # noqa: S105  a made-up RFID token
RECEIPT = """\
Receipt T8 of meter 1SIM0000000042 IEM-DCR-SIM-125
  User          04A2B3C4 (ISO14443)
  Charge point  EVSEID DE*TST*E0001*1
  Tariff        0.49 EUR/kWh
  Begin         TIME   register 20.480 kWh
  End           TIME   register 20.481 kWh
  Energy        0.001 kWh  import 1-b:1.8.e
  Verdict       VALID: the signature matches the data and the key

"""


@contextlib.contextmanager
def ready(**options: Any) -> Iterator[Simulator]:
    """Yield a simulated meter that has a charge point."""
    with Simulator(**options) as simulator:
        simulator.set_up()
        yield simulator


def session(simulator: Simulator, *options: str) -> Done:
    return run("session", simulator.address, "--id", TOKEN, "--seconds", "0.2", *options)


def quick(simulator: Simulator, *options: str) -> Done:
    return session(simulator, "--json", *options)


def test_events() -> None:
    with Simulator(pagination=7) as simulator:
        done = quick(
            simulator, "--seconds", "1.2", "--evse-id", CI, "--transaction-id", "T|1 Ä", "--tariff", "5 ct",
            "--id-type", "EMAID", "--set", "CT=CBIDC", "--set", "IL_default=HEARSAY", "--set", "timezone=Europe/Berlin",
        )  # fmt: skip
        assert (done.status, done.err) == (0, "")
        assert simulator.posts == ["/gw", "/receipt", "/user", "/receipt", "/receipt"]
        (record,) = simulator.of(lambda meter: meter.signed)
    names = [event["event"] for event in done.events]
    others = ["public_key_ocmf", "start_transaction", "receipt", "stop_transaction"]
    assert [name for name in names if name != "powermeter"] == others
    start = names.index("start_transaction")
    assert "powermeter" in names[:start]
    assert "powermeter" in names[start : names.index("stop_transaction")]
    assert done.events[names.index("powermeter")]["value"]["energy_Wh_import"] == {"total": 20480.0}
    assert done.only("start_transaction")["response"] == {"status": "OK"}
    signed = done.only("stop_transaction")["response"]["signed_meter_value"]
    assert signed["signed_meter_data"] == record.text
    assert signed["public_key"] == done.only("public_key_ocmf")["value"]
    assert done.only("receipt") == {"event": "receipt", "verified": True, "accepted": True, "ocmf": record.text}
    payload = ocmf.parse(record.text).payload
    assert {name: payload[name] for name in ("CT", "CI", "IS", "IL", "IF", "IT", "ID", "PG", "TT")} == {
        "CT": "CBIDC", "CI": CI, "IS": True, "IL": "HEARSAY", "IF": [], "IT": "EMAID", "ID": TOKEN, "PG": "T8",
        "TT": "5 ct",
    }  # fmt: skip


def test_what_a_person_sees() -> None:
    with ready(pagination=7) as simulator:
        done = session(simulator, "-v", "--seconds", "1.2", "--tariff", "0.49 EUR/kWh")
        (record,) = simulator.of(lambda meter: meter.signed)
    assert done.status == 0
    found = re.search(r"Transaction (\S+) began", done.out)
    assert found is not None
    assert uuid.UUID(found[1]).version == 4
    assert f"info: meter {simulator.address}: transaction {found[1]} begun for 04…(8)" in done.err
    assert TOKEN not in done.err
    value = r" +\d+\.\d{3} kW +\d+\.\d V +\d+\.\d A  "
    lines = [
        re.escape(f"Meter 1SIM0000000042 at {simulator.address} holds CT EVSEID, CI {CI}"),
        r"First live value: 0\.000 kW +0\.0 V +0\.0 A  register 20\.480 kWh",
        f"Transaction {found[1]} began for user {TOKEN}",
        rf"(  \d\d:\d\d:\d\d{value}charged 0\.00\d kWh\n)+Ending the transaction and waiting for the signature \.\.\.",
    ]
    before, receipt, after = done.out.partition("\nReceipt ")
    assert re.fullmatch("\n".join(lines) + "\n", before)
    shown = re.sub(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", "TIME", receipt + after)
    assert shown == f"\n{RECEIPT}{record.text}\n"


def test_a_charge_point_is_only_written_when_it_is_given() -> None:
    with Simulator() as simulator:
        done = session(simulator)
        assert (done.status, done.out) == (2, "")
        assert "no charge point id (CI)" in done.err
        assert "--evse-id" in done.err
        assert simulator.methods == {"GET"}
        simulator.set_up(ci="DE*OWN*E9")
        done = quick(simulator)
        assert (done.status, done.err) == (0, "")
        assert simulator.posts == ["/datetime", "/receipt", "/user", "/receipt", "/receipt"]
        assert ocmf.parse(done.only("receipt")["ocmf"]).payload["CI"] == "DE*OWN*E9"
        response = quick(simulator, "--evse-id", CI).only("start_transaction")["response"]
        assert response["status"] == "NOT_SUPPORTED"
        assert "DE*OWN*E9" in response["error"]


def test_a_transaction_that_runs_is_only_ended_when_asked_to() -> None:
    with ready() as simulator:
        assert simulator.handle("POST", "/receipt", {"TX": "B"}) == 200
        done = session(simulator)
        assert (done.status, done.out) == (1, "")
        assert "running a transaction; nothing was sent" in done.err
        assert "--end-running" in done.err
        assert simulator.methods == {"GET"}
        assert simulator.runs
        done = session(simulator, "--end-running")
        assert done.status == 0
    assert "It is running a transaction, which is ended first" in done.out
    assert "The receipt of another transaction, which was ended first:\n\nReceipt T1 " in done.out
    assert done.out.count("VALID: the signature matches") == 2


def test_the_receipt_of_a_begin_whose_answer_was_lost_is_shown_as_well() -> None:
    with ready(idle_end="accept") as simulator:
        simulator.fault(kind="refuse", node="/receipt", method="POST")
        simulator.fault(kind="lose-answer", node="/receipt", method="POST")
        done = session(simulator)
    assert done.status == 0
    assert "The receipt of an earlier begin of this transaction, whose answer was lost:\n\nReceipt T1 " in done.out
    assert done.out.count("\nReceipt T") == done.out.count("VALID: the signature matches") == 2


def test_a_transaction_that_begins_although_its_start_fails_is_ended_and_its_receipt_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "START_S", 3.0)
    with ready() as simulator:
        # Three are answered: those of the command, of the initialisation and of the start's first round.
        simulator.fault(kind="drip", node="/gw", count=3, delay_s=0.0)
        simulator.fault(kind="refuse", node="/gw", count=99)
        simulator.fault(kind="refuse", node="/receipt", method="POST")
        simulator.fault(kind="lose-answer", node="/receipt", method="POST")
        done = quick(simulator)
        (record,) = simulator.of(lambda meter: meter.signed)
    assert done.status == 1
    assert done.only("start_transaction")["response"]["status"] == "UNEXPECTED_ERROR"
    assert done.only("receipt")["ocmf"] == record.text


def test_a_meter_that_falls_silent_after_a_lost_answer_may_run_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "START_S", 3.0)
    monkeypatch.setattr(charging, "SETTLING_S", 2.0)
    with ready() as simulator, ThreadPoolExecutor(1) as thread:

        def fall_silent() -> None:
            while not simulator.runs:
                pass
            simulator.fault(kind="reset", count=999)

        simulator.fault(kind="refuse", node="/receipt", method="POST")
        simulator.fault(kind="lose-answer", node="/receipt", method="POST")
        silent = thread.submit(fall_silent)
        done = session(simulator)
        silent.result()
        assert simulator.runs
    assert done.status == 1
    assert "the transaction may still be running in the meter. Check with: iem-dcr read" in done.err


def test_a_start_that_is_refused() -> None:
    with ready() as simulator:
        simulator.fault(kind="refuse", node="/user", method="POST", count=99)
        done = session(simulator, "--set", "resilience_transaction_request_retries=0")
    assert done.status == 1
    assert "Error: the transaction did not begin (UNEXPECTED_ERROR): " in done.err
    assert "refused with status 428" in done.err
    assert "Ending" not in done.out


def test_an_end_refused_while_a_current_flows() -> None:
    with ready(charge_s=0.0) as simulator:
        done = session(simulator, "--set", "stop_current_wait_ms=0")
        assert done.status == 1
        assert "Error: the transaction has no receipt" in done.err
        assert f"To end it once no current flows: iem-dcr session {simulator.address}" in done.err
        assert simulator.runs


def test_it_says_that_it_waits_for_the_current_to_fall() -> None:
    with ready(charge_s=4.0) as simulator:
        done = session(simulator, "--seconds", "2")
    assert done.status == 0
    assert "Ending the transaction: waiting for the current to fall (125.0 A) ...\n" in done.out
    assert "VALID: the signature matches" in done.out


def test_it_ends_when_somebody_else_has_ended_its_transaction() -> None:
    with ready() as simulator:
        process = begin("session", simulator.address, "--id", TOKEN, "--seconds", "600")
        before = read_until(process, "began for user")
        while simulator.handle("POST", "/receipt", {"TX": "E"}) != 200:  # until the current has fallen
            assert process.poll() is None
        done = finish(process, before)
    assert done.status == 0
    assert "The transaction is over: another program ended it, or the meter lost power.\n" in done.err
    assert "cleared" not in done.err
    assert "Ending the transaction" not in done.out
    assert "VALID: the signature matches" in done.out


@pytest.mark.parametrize(
    ("columns", "value"),
    [(80, r"  \d\d:\d\d:\d\d +\d+\.\d{3} kW +\d+\.\d V +\d+\.\d A  charged \d\.\d{3} kWh"),
     (40, r"\d\d:\d\d:\d\d  \d+\.\d{3} kW  \d\.\d{3} kWh")],
)  # fmt: skip
def test_progress_fits_the_terminal(columns: int, value: str) -> None:
    with ready(current_a=500.0, voltage_v=1000.0, import_wh=12_345_678_000, charge_s=2.5) as simulator:
        terminal = Terminal("session", simulator.address, "--id", TOKEN, "--seconds", "2.5", columns=columns)
        assert terminal.end() == 0
    _, _, progress = without_escapes(terminal.written).partition("began for user 04A2B3C4\n")
    progress, _, _ = progress.partition("Ending the transaction")
    lines = [line for line in progress.splitlines() if line]
    assert max(cell_len(line) for line in lines) <= columns
    assert any(re.fullmatch(value, line) for line in lines)
    assert re.fullmatch(r"Charging ━+ 2/2 s", lines[-1])


def test_a_receipt_that_does_not_verify() -> None:
    with ready() as simulator:
        process = begin("session", simulator.address, "--id", TOKEN, "--json", "--seconds", "0.8")
        before = read_until(process, '"start_transaction"')
        simulator.of(lambda meter: meter.configure(private_key=4711))
        done = finish(process, before)
    assert done.status == 1
    assert done.only("stop_transaction")["response"]["status"] == "OK"
    assert (done.only("receipt")["verified"], done.only("receipt")["accepted"]) == (False, False)


def test_a_receipt_that_is_valid_and_not_accepted() -> None:
    with ready(ST="E") as simulator:
        done = quick(simulator)
    assert done.status == 0
    assert (done.only("receipt")["verified"], done.only("receipt")["accepted"]) == (True, False)


def test_a_receipt_that_cannot_be_checked() -> None:
    with ready() as simulator:
        simulator.fault(kind="refuse", node="/publickey", count=99)
        done = quick(simulator)
    assert done.status == 1
    assert (done.only("receipt")["verified"], done.only("receipt")["accepted"]) == (None, None)


def test_errors_are_events() -> None:
    with ready() as simulator:
        process = begin("session", simulator.address, "--id", TOKEN, "--json", "--seconds", "3.5")
        before = read_until(process, '"start_transaction"')
        simulator.fault(kind="server-error", node="/metervalue", count=2)
        done = finish(process, before)
    assert done.status == 0
    raised, cleared = done.only("error_raised"), done.only("error_cleared")
    assert raised.pop("event") != cleared.pop("event")
    assert raised == cleared
    assert raised["type"] == "powermeter/CommunicationFault"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (None, "not reachable"),
        ({"kind": "stall", "count": 99}, "no answer within 1.5 s"),
        ({"kind": "refuse", "status": 404}, "refused with status 404"),
        ({"kind": "garbage", "node": "/gw"}, "Is there an IEM-DCR at this address?"),
    ],
)
def test_a_meter_that_does_not_answer(fault: dict[str, Any] | None, why: str) -> None:
    with ready() as simulator:
        if fault:
            simulator.fault(**fault)
        address = simulator.address if fault else "127.0.0.1:9"
        done = run("session", address, "--id", TOKEN, "--connect-seconds", "1.5")
    assert (done.status, done.out) == (1, "")
    assert why in done.err


def test_a_meter_that_starts_up_is_waited_for() -> None:
    with ready() as simulator:
        simulator.fault(kind="server-error", status=503, count=1)
        assert quick(simulator).status == 0


def test_a_power_cut_in_the_middle() -> None:
    with ready(load_delay_s=3600.0) as simulator:
        process = begin("session", simulator.address, "--id", TOKEN, "--seconds", "2.5")
        before = read_until(process, "began for user")
        simulator.of(lambda meter: meter.power_cycle(off_s=0.1, boot_s=0.1))
        done = finish(process, before)
    assert done.status == 0
    assert "Ended         by a power failure" in done.out
    assert "VALID: the signature matches" in done.out


def test_every_session_is_kept_in_the_journal_and_shows_its_own_receipt_only(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    with ready() as simulator:
        for name in ("T-1", "T-2"):
            done = quick(simulator, "--transaction-id", name, "--set", f"journal_path={path}")
            assert (done.status, done.err) == (0, "")
            assert done.only("receipt")["ocmf"] == entries(path)[-1].text
    assert [(entry.pagination, entry.transaction_id) for entry in entries(path)] == [("T1", "T-1"), ("T2", "T-2")]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_journal_that_cannot_be_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    done = run("session", "127.0.0.1:9", "--id", TOKEN, "--set", f"journal_path={tmp_path / 'no' / 'file'}")
    assert (done.status, done.out) == (2, "")
    assert "its folder does not exist" in " ".join(done.err.split())
    assert "--set" in done.err
