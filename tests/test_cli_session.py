"""iem-dcr session: what it writes, what it sends, and what its exit status says."""

from __future__ import annotations

import io
import re
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from rich.cells import cell_len

from iem_dcr import ocmf
from iem_dcr.cli.output import Output
from iem_dcr.cli.session_view import HumanView
from iem_dcr.powermeter import Powermeter
from iem_dcr.simulator import Fault
from tests.support.bench import CI, SERIAL
from tests.support.command_line import Done, Simulator, begin, finish, read_until, run

TOKEN = "04A2B3C4"  # noqa: S105  a made-up RFID token
RECEIPT = """\
╭─────────────────────────── Receipt T8 ───────────────────────────╮
│ Charge point   EVSEID DE*TST*E0001*1                             │
│ Meter          IEM-DCR-SIM-125 1SIM0000000042                    │
│ User           04A2B3C4 (ISO14443)                               │
│ Tariff         0.49 EUR/kWh                                      │
│ Begin          2026-03-01 12:00:00 +0100   register 20.480 kWh   │
│ End            2026-03-01 12:00:00 +0100   register 20.481 kWh   │
│ Energy         0.001 kWh                                         │
│ Signature      VALID: the signature matches the data and the key │
╰──────────────────────────────────────────────────────────────────╯
"""


def session(simulator: Simulator, *options: str) -> Done:
    return run("session", simulator.address, "--id", TOKEN, *options)


def quick(simulator: Simulator, *options: str) -> Done:
    return session(simulator, "--json", "--seconds", "0.2", *options)


def test_events() -> None:
    with Simulator(pagination=7) as simulator:
        done = session(
            simulator, "--json", "--seconds", "1.2", "--evse-id", CI, "--transaction-id", "T-1", "--tariff", "5 ct"
        )
        assert (done.status, done.err) == (0, "")
        assert simulator.posts == ["/gw", "/receipt", "/user", "/receipt", "/receipt"]
        (record,) = simulator.of(lambda meter: meter.signed)

    events = done.events
    names = [event["event"] for event in events]
    assert [name for name in names if name != "powermeter"] == [
        "public_key_ocmf",
        "start_transaction",
        "stop_transaction",
        "receipt",
    ]
    assert names.index("powermeter") < names.index("start_transaction")
    charging = names[names.index("start_transaction") : names.index("stop_transaction")]
    assert "powermeter" in charging
    for event in events:
        if event["event"] == "powermeter":
            assert_is_powermeter(event)

    key = done.only("public_key_ocmf")
    assert set(key) == {"event", "value"}
    assert done.only("start_transaction") == {"event": "start_transaction", "response": {"status": "OK"}}

    stop = done.only("stop_transaction")
    assert set(stop) == {"event", "response"}
    assert stop["response"]["status"] == "OK"
    signed = stop["response"]["signed_meter_value"]
    assert set(signed) == {"signed_meter_data", "signing_method", "encoding_method", "public_key", "timestamp"}
    assert signed["signed_meter_data"] == record.text
    assert (signed["signing_method"], signed["encoding_method"]) == ("", "OCMF")
    assert signed["public_key"] == key["value"]

    assert done.only("receipt") == {"event": "receipt", "verified": True, "accepted": True, "ocmf": record.text}
    payload = ocmf.parse(record.text).payload
    assert [payload[name] for name in ("CT", "CI", "IS", "IL", "IF", "IT", "ID", "PG", "TT")] == [
        "EVSEID",
        CI,
        True,
        "NONE",
        [],
        "ISO14443",
        TOKEN,
        "T8",
        "5 ct",
    ]


def assert_is_powermeter(event: dict[str, Any]) -> None:
    assert set(event) == {"event", "value"}
    value = event["value"]
    assert set(value) == {
        "timestamp",
        "meter_id",
        "energy_Wh_import",
        "energy_Wh_export",
        "power_W",
        "voltage_V",
        "current_A",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value["timestamp"])
    assert value["meter_id"] == "1SIM0000000042"
    numbers = [value["energy_Wh_import"]["total"], value["energy_Wh_export"]["total"], value["power_W"]["total"]]
    assert all(isinstance(number, float) for number in [*numbers, value["voltage_V"]["DC"], value["current_A"]["DC"]])


def test_what_a_person_sees() -> None:
    with Simulator(pagination=7) as simulator:
        simulator.set_up()
        done = session(simulator, "--seconds", "1.2", "--transaction-id", "T-1", "--tariff", "0.49 EUR/kWh")
        address = simulator.address
        (record,) = simulator.of(lambda meter: meter.signed)
    assert (done.status, done.err) == (0, "")
    before, _, after = done.out.partition("\n╭")
    time = r"\d\d:\d\d:\d\d"
    value = r" +\d+\.\d{3} kW +\d+\.\d V +\d+\.\d A  "
    lines = [
        re.escape(f"Meter 1SIM0000000042 at {address} holds CT EVSEID, CI {CI}"),
        r"First live value: 0\.000 kW +0\.0 V +0\.0 A  register 20\.480 kWh",
        f"Transaction T-1 began for user {TOKEN}",
        rf"(  {time}{value}charged 0\.00\d kWh\n)+Ending the transaction and waiting for the signature \.\.\.",
    ]
    assert re.fullmatch("\n".join(lines) + "\n", before)
    panel, _, rest = f"╭{after}".partition("OCMF|")
    panel = re.sub(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", "2026-03-01 12:00:00 +0100", panel)
    assert panel == RECEIPT
    assert f"OCMF|{rest}" == f"{record.text}\n"


def test_without_a_charge_point_nothing_is_sent() -> None:
    with Simulator() as simulator:
        done = session(simulator)
        assert (done.status, done.out) == (2, "")
        assert "no charge point id (CI)" in done.err
        assert "--evse-id" in done.err
        assert simulator.methods == {"GET"}


def test_the_meters_own_charge_point_is_kept() -> None:
    with Simulator() as simulator:
        simulator.set_up(ci="DE*OWN*E9")
        done = quick(simulator)
        assert (done.status, done.err) == (0, "")
        assert simulator.posts == ["/datetime", "/receipt", "/user", "/receipt", "/receipt"]
    assert ocmf.parse(done.only("receipt")["ocmf"]).payload["CI"] == "DE*OWN*E9"


def test_a_charge_point_by_set() -> None:
    with Simulator() as simulator:
        done = quick(simulator, "--set", "CI=DE*SET*E1", "--set", "CT=CBIDC", "--set", "IL_default=HEARSAY")
        assert (done.status, done.err) == (0, "")
        assert simulator.posts[0] == "/gw"
    payload = ocmf.parse(done.only("receipt")["ocmf"]).payload
    assert (payload["CT"], payload["CI"], payload["IL"]) == ("CBIDC", "DE*SET*E1", "HEARSAY")


def test_another_charge_point_than_the_meters() -> None:
    with Simulator() as simulator:
        simulator.set_up(ci="DE*OWN*E9")
        done = quick(simulator, "--evse-id", CI)
        assert done.status == 1
        response = done.only("start_transaction")["response"]
        assert response["status"] == "NOT_SUPPORTED"
        assert "DE*OWN*E9" in response["error"]
        assert {event["event"] for event in done.events} == {"public_key_ocmf", "powermeter", "start_transaction"}
        assert simulator.posts == ["/datetime"]


def test_a_transaction_that_runs_is_left_alone() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        assert simulator.handle("POST", "/receipt", {"TX": "B"}) == 200
        done = quick(simulator)
        assert (done.status, done.out) == (1, "")
        assert "running a transaction; nothing was sent" in done.err
        assert "--end-running" in done.err
        assert simulator.methods == {"GET"}
        assert simulator.runs


def test_a_transaction_that_runs_is_ended_when_asked_to() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        assert simulator.handle("POST", "/receipt", {"TX": "B"}) == 200
        done = quick(simulator, "--end-running")
        assert done.status == 0
        records = simulator.of(lambda meter: [record.text for record in meter.signed])
        assert not simulator.runs
    assert done.events[-1]["event"] == "receipt"
    written = [(event["verified"], event["ocmf"]) for event in done.events if event["event"] == "receipt"]
    assert written == [(True, text) for text in records]


def test_the_receipt_of_a_transaction_ended_first_is_printed() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        assert simulator.handle("POST", "/receipt", {"TX": "B"}) == 200
        done = session(simulator, "--seconds", "0.2", "--end-running")
    assert done.status == 0
    assert "It is running a transaction, which is ended first" in done.out
    assert done.out.count("─ Receipt T") == 2
    assert done.out.count(" VALID: the signature matches") == 2


def test_a_start_that_is_refused() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        simulator.of(lambda meter: meter.faults.add(Fault("refuse", node="/user", method="POST", count=99)))
        done = quick(simulator, "--set", "resilience_transaction_request_retries=0")
        assert done.status == 1
        assert "refused with status 428" in done.err
        assert done.only("start_transaction")["response"]["status"] == "UNEXPECTED_ERROR"
        assert "stop_transaction" not in {event["event"] for event in done.events}
        shown = run("-q", "session", simulator.address, "--id", TOKEN, "--set", "refuse_start_with_error=true")
        assert "(UNEXPECTED_ERROR): meter" in shown.err
        assert "refused with status 428" in shown.err


def test_lost_answers_do_no_harm() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        simulator.of(lambda meter: meter.faults.add(Fault("lose-answer", node="/receipt", method="POST", count=2)))
        done = quick(simulator)
        assert done.status == 0
        assert simulator.of(lambda meter: (meter.state.begun, meter.state.ended)) == (1, 1)


def test_an_end_refused_while_a_current_flows() -> None:
    with Simulator(charge_s=0.0) as simulator:
        simulator.set_up()
        done = session(simulator, "--seconds", "0.2", "--set", "stop_current_wait_ms=0")
        assert done.status == 1
        assert "Error: the transaction has no receipt" in done.err
        assert f"To end it once no current flows: iem-dcr session {simulator.address}" in done.err
        assert simulator.runs


def test_it_says_that_it_waits_for_the_current_to_fall() -> None:
    with Simulator(charge_s=4.0) as simulator:
        simulator.set_up()
        done = session(simulator, "--seconds", "2")
    assert done.status == 0
    assert "Ending the transaction: waiting for the current to fall (125.0 A) ...\n" in done.out
    assert "VALID: the signature matches" in done.out


def test_it_ends_when_somebody_else_has_ended_its_transaction() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        process = begin("session", simulator.address, "--id", TOKEN, "--seconds", "600")
        before = read_until(process, "began for user")
        while simulator.handle("POST", "/receipt", {"TX": "E"}) != 200:  # until the current has fallen
            assert process.poll() is None
        done = finish(process, before)
    assert done.status == 0
    assert "The transaction is over: another program ended it, or the meter lost power.\n" in done.err
    assert "Ending the transaction" not in done.out
    assert "VALID: the signature matches" in done.out


class Tty(io.StringIO):
    """Stands in the place of a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "heading"), [(80, "Voltage"), (40, "Charged")])
def test_progress_fits_the_terminal(columns: int, heading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLUMNS", str(columns)), ("LINES", "24"), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    terminal = Tty()
    view = HumanView(Output(terminal), 86_400)
    wh = Decimal(12_345_678)
    with view.charging():
        for second in range(30):
            time = datetime(2026, 3, 1, 12, 0, second, tzinfo=UTC)
            view.publish_powermeter(Powermeter(time, SERIAL, wh + second, None, Decimal(350_000), Decimal(1000), None))
            view.progress(second)
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).splitlines()]
    shown = lines[lines.index(next(line for line in lines if heading in line)) :]
    assert max(cell_len(line) for line in shown) <= columns
    assert shown[-1].endswith("29/86400 s")
    assert shown[-3].lstrip().startswith("12:00:29"), "the newest value stands above the bar"


def test_a_receipt_that_does_not_verify() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        process = begin("session", simulator.address, "--id", TOKEN, "--json", "--seconds", "0.8")
        before = read_until(process, '"start_transaction"')
        simulator.of(lambda meter: meter.configure(private_key=4711))
        done = finish(process, before)
    assert done.status == 1
    assert done.only("stop_transaction")["response"]["status"] == "OK"
    assert done.only("receipt")["verified"] is False


def test_a_receipt_that_cannot_be_checked() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        simulator.of(lambda meter: meter.faults.add(Fault("refuse", node="/publickey", count=99)))
        done = quick(simulator)
        assert done.status == 1
        assert done.only("receipt")["verified"] is None
        shown = session(simulator, "--seconds", "0.2")
        assert shown.status == 1
        assert "NOT CHECKED: no public key" in shown.out


def test_errors_are_events() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        process = begin("session", simulator.address, "--id", TOKEN, "--json", "--seconds", "3.5")
        before = read_until(process, '"start_transaction"')
        simulator.of(lambda meter: meter.faults.add(Fault("server-error", node="/metervalue", count=2)))
        done = finish(process, before)
    assert done.status == 0
    error = {
        "type": "powermeter/CommunicationFault",
        "sub_type": "Communication timed out",
        "message": "This error is raised due to communication timeout",
    }
    assert done.only("error_raised") == {"event": "error_raised"} | error
    assert done.only("error_cleared") == {"event": "error_cleared"} | error


def test_a_meter_that_does_not_answer() -> None:
    with Simulator() as simulator:
        address = simulator.address
    done = run("session", address, "--id", TOKEN, "--connect-seconds", "0.5")
    assert (done.status, done.out) == (1, "")
    assert "not reachable" in done.err
    with Simulator() as simulator:
        simulator.set_up()
        simulator.of(lambda meter: meter.faults.add(Fault("stall", count=99)))
        done = session(simulator, "--connect-seconds", "0.5")
        assert (done.status, done.out) == (1, "")
        assert "no answer within 0.5 s" in done.err


def test_a_meter_that_is_none() -> None:
    with Simulator() as simulator:
        simulator.of(lambda meter: meter.faults.add(Fault("garbage", node="/gw", count=1)))
        done = session(simulator)
    assert (done.status, done.out) == (1, "")
    assert "Is there an IEM-DCR at this address?" in done.err


def test_a_meter_that_starts_up_is_waited_for() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        simulator.of(lambda meter: meter.faults.add(Fault("server-error", status=503, count=1)))
        assert quick(simulator).status == 0


def test_the_transaction_id_is_a_uuid_and_the_user_is_not_logged() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        done = run("-v", "session", simulator.address, "--id", TOKEN, "--seconds", "0.2", "-v")
    assert done.status == 0
    found = re.search(r"Transaction (\S+) began", done.out)
    assert found is not None
    assert uuid.UUID(found[1]).version == 4
    assert f"info: meter {simulator.address}: transaction {found[1]} begun for 04…(8)" in done.err
    assert TOKEN not in done.err


@pytest.mark.parametrize("option", [["--id-type", "EMAID"], ["--set", "US=true"], ["--set", "timezone=Europe/Berlin"]])
def test_other_options_reach_the_meter(option: list[str]) -> None:
    with Simulator() as simulator:
        simulator.set_up()
        done = quick(simulator, *option)
    assert done.status == 0
    payload = ocmf.parse(done.only("receipt")["ocmf"]).payload
    assert payload["IT"] == ("EMAID" if option[0] == "--id-type" else "ISO14443")


def test_a_power_cut_in_the_middle() -> None:
    with Simulator(load_delay_s=3600.0) as simulator:
        simulator.set_up()
        process = begin("session", simulator.address, "--id", TOKEN, "--seconds", "2.5")
        before = read_until(process, "began for user")
        simulator.of(lambda meter: meter.power_cycle(off_s=0.1, boot_s=0.1))
        done = finish(process, before)
    assert done.status == 0
    assert "Ended          by a power failure" in done.out
    assert "VALID: the signature matches" in done.out
