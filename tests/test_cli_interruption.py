"""Ctrl-C, SIGTERM and a reader that leaves: a transaction is ended first, and its receipt is not lost."""

from __future__ import annotations

import signal

import pytest

from iem_dcr.simulator import Fault
from tests.support.command_line import Simulator, begin, finish, read_until, run

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
OPTIONS = ("--id", "04A2B3C4", "--seconds", "60")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_transaction_is_ended_and_its_receipt_written(number: signal.Signals) -> None:
    with Simulator() as simulator:
        simulator.set_up()
        process = begin("session", simulator.address, *OPTIONS, "--json")
        before = read_until(process, '"start_transaction"')
        process.send_signal(number)
        done = finish(process, before)
        assert (done.status, done.err) == (130, "")
        assert done.only("stop_transaction")["response"]["status"] == "OK"
        (record,) = simulator.of(lambda meter: meter.signed)
        assert done.only("receipt") == {"event": "receipt", "verified": True, "accepted": True, "ocmf": record.text}
        assert not simulator.runs


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_start_nothing_is_begun(number: signal.Signals) -> None:
    with Simulator() as simulator:
        simulator.set_up()
        simulator.of(lambda meter: meter.faults.add(Fault("stall", node="/publickey", count=9)))
        process = begin("-v", "session", simulator.address, *OPTIONS)
        before = read_until(process, "holds CT")
        process.send_signal(number)
        done = finish(process, before)
        assert done.status == 130
        assert done.err.endswith("Interrupted: no transaction was begun.\n")
        assert simulator.methods == {"GET"}


def test_a_terminal_that_closes_does_not_insist_however_often_it_says_so() -> None:
    with Simulator(charge_s=1.0) as simulator:
        simulator.set_up()
        process = begin("session", simulator.address, *OPTIONS)
        before = read_until(process, "began for user")
        process.send_signal(signal.SIGHUP)
        before += read_until(process, "Ending the transaction")
        for _ in range(5):
            process.send_signal(signal.SIGHUP)
        done = finish(process, before)
        assert (done.status, done.err) == (130, "")
        assert "VALID: the signature matches" in done.out
        assert not simulator.runs


def test_who_insists_leaves_at_once() -> None:
    with Simulator(charge_s=0.0) as simulator:
        simulator.set_up()
        process = begin("session", simulator.address, *OPTIONS)
        before = read_until(process, "began for user")
        process.send_signal(signal.SIGINT)
        before += read_until(process, "Ending the transaction")
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        said = process.stderr.readline()
        assert said == "Still ending the transaction; interrupt once more to leave it as it is.\n"
        process.send_signal(signal.SIGINT)
        done = finish(process, before)
        assert done.status == 130
        assert "the transaction may still be running in the meter" in done.err
        assert simulator.runs


def test_reading_is_interrupted() -> None:
    with Simulator() as simulator:
        simulator.of(lambda meter: meter.faults.add(Fault("stall", count=9)))
        process = begin("read", simulator.address)
        while not simulator.of(lambda meter: len(meter.faults.as_json()) and meter.faults.as_json()[0]["count"] != 9):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        done = finish(process)
    assert (done.status, done.out, done.err) == (130, "", "Interrupted: the meter was not read.\n")


def test_a_reader_that_leaves_ends_the_transaction_quietly() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        process = begin("session", simulator.address, *OPTIONS, "--json")
        read_until(process, '"start_transaction"')
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == ""
        process.stderr.close()
        assert simulator.of(lambda meter: (meter.state.begun, meter.state.ended)) == (1, 1)


@pytest.mark.parametrize("options", [["read"], ["read", "--json"], ["session", *OPTIONS]])
def test_a_full_disk_is_said_and_nothing_runs_on(options: list[str]) -> None:
    with Simulator() as simulator, open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123  a device
        simulator.set_up()
        done = finish(begin(options[0], simulator.address, *options[1:], stdout=full.fileno()))
        assert (done.status, done.err) == (1, "Error: cannot write to standard output: No space left on device\n")
        assert not simulator.runs


def test_what_the_terminal_cannot_write_is_replaced() -> None:
    with Simulator(MS="Zähler") as simulator:
        done = finish(begin("read", simulator.address, PYTHONIOENCODING="ascii"))
        assert done.status == 0
        assert "Meter Z?hler" in done.out
        assert "Meter Zähler" in run("read", simulator.address).out
