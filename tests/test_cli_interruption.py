"""Ctrl-C, SIGTERM and a reader that leaves: a transaction is ended first, and its receipt is not lost."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.command_line import PATIENCE_S, Simulator, begin, finish, read_until, run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

OPTIONS = ("--id", "04A2B3C4", "--seconds", "60")


@contextlib.contextmanager
def charging(
    until: str, *words: str, fault: dict[str, Any] | None = None, **options: Any
) -> Iterator[tuple[Simulator, subprocess.Popen[str]]]:
    """Yield a simulated meter and a session at it that has written the line with a text."""
    with Simulator(**options) as simulator:
        simulator.set_up()
        if fault:
            simulator.fault(**fault)
        process = begin("session", simulator.address, *OPTIONS, *words)
        read_until(process, until)
        yield simulator, process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_transaction_is_ended_and_its_receipt_written(number: signal.Signals) -> None:
    with charging('"start_transaction"', "--json") as (simulator, process):
        process.send_signal(number)
        done = finish(process)
        (record,) = simulator.of(lambda meter: meter.signed)
        assert not simulator.runs
    assert (done.status, done.err) == (130, "")
    assert done.only("stop_transaction")["response"]["status"] == "OK"
    assert done.only("receipt") == {"event": "receipt", "verified": True, "accepted": True, "ocmf": record.text}


def test_before_the_start_nothing_is_begun() -> None:
    stalls = {"kind": "stall", "node": "/publickey", "count": 9}
    with charging("holds CT", fault=stalls) as (simulator, process):
        process.send_signal(signal.SIGTERM)
        done = finish(process)
        assert simulator.methods == {"GET"}
    assert done.status == 130
    assert done.err.endswith("Interrupted: no transaction was begun.\n")


def test_a_terminal_that_closes_does_not_insist_however_often_it_says_so() -> None:
    with charging("began for user", charge_s=1.0) as (simulator, process):
        process.send_signal(signal.SIGHUP)
        read_until(process, "Ending the transaction")
        for _ in range(5):
            process.send_signal(signal.SIGHUP)
        done = finish(process)
        assert not simulator.runs
    assert (done.status, done.err) == (130, "")
    assert "VALID: the signature matches" in done.out


def test_who_insists_leaves_at_once() -> None:
    with charging("began for user", charge_s=0.0) as (simulator, process):
        process.send_signal(signal.SIGINT)
        read_until(process, "Ending the transaction")
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        said = process.stderr.readline()
        assert said == "Still ending; interrupt once more to leave everything as it is.\n"
        process.send_signal(signal.SIGINT)
        done = finish(process)
        assert simulator.runs
    assert done.status == 130
    assert "the transaction may still be running in the meter" in done.err


def test_reading_is_interrupted() -> None:
    with Simulator() as simulator:
        simulator.fault(kind="stall", count=9)
        process = begin("read", simulator.address)
        while simulator.of(lambda meter: meter.faults.as_json()[0]["count"] == 9):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        done = finish(process)
    assert (done.status, done.out, done.err) == (130, "", "Interrupted: the meter was not read.\n")


def test_a_reader_that_leaves_ends_the_transaction_quietly() -> None:
    with charging('"start_transaction"', "--json") as (simulator, process):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr.read() == ""
        process.stderr.close()
        assert simulator.of(lambda meter: (meter.state.begun, meter.state.ended)) == (1, 1)


@pytest.mark.parametrize("options", [["read"], ["session", *OPTIONS]])
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
