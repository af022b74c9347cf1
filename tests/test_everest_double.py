"""The double of everestpy keeps to what is known of everestpy: shown with modules of a few lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.everest_bench import CommandRefused, EverestBench, ModuleDied
from tests.support.everest_double.everest.framework._module import Module
from tests.support.shared import shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Script = Callable[..., Path]

BEGIN = """
import os, signal, sys, threading
from everest.framework import Module, RuntimeSession, error, log
session = RuntimeSession()
module = Module(session)
setup = module.say_hello()
answer = {"status": "OK"}
start = stop = lambda args: answer
ready = lambda: None
def attempt(do):
    try:
        do()
    except Exception as refused:
        log.info(f"{type(refused).__name__}: {refused}")
    else:
        log.info("fine")
"""
END = """
module.implement_command("main", "start_transaction", start)
module.implement_command("main", "stop_transaction", stop)
module.init_done(ready)
threading.Event().wait()
"""
START = {
    "value": {
        "evse_id": "DE*TST*E0001*1",
        "transaction_id": "T-1",
        "identification_status": "ASSIGNED",
        "identification_flags": [],
        "identification_type": "ISO14443",
    }
}
STOP = {"transaction_id": "T-1"}
VALUE: dict[str, Any] = {
    "timestamp": "2026-03-01T12:00:00.000Z",
    "energy_Wh_import": {"total": 10.5},
    "voltage_V": {"DC": 400},
    "temperatures": [{"temperature": 21.5, "location": "top"}],
}
FAULT, SUB_TYPE = "powermeter/CommunicationFault", "Communication timed out"


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Writes a module with something of its own between its begin and its end."""

    def write(own: str = "", *, begin: str = BEGIN, end: str = END) -> Path:
        path = tmp_path / "module.py"
        path.write_text(begin + own + end, encoding="utf-8")
        return path

    return write


def logged(bench: EverestBench, count: int = 1) -> list[str]:
    """Wait for a number of lines in the log and return their texts."""
    bench.wait_for(lambda: len(bench.log_lines) >= count)
    return [line.text for line in bench.log_lines]


NAMES = """
impl_id, value, message = "main", "3059", "not reached"
type, sub_type, severity = "powermeter/CommunicationFault", "Communication timed out", error.Severity.High
handler = lambda args: {"status": "OK"}
on_ready = f = lambda: None
"""
SLASHES = re.compile(r"log\.([a-z/]+)\(str\)")


def test_calls_of_everestpy_are_taken(script: Script) -> None:
    facts = shared("everest-facts.md").read_text(encoding="utf-8")
    block = facts.partition("## everestpy\n\n")[2].partition("\n\n")[0]
    lines = [line.strip() for line in block.splitlines()]
    calls = []
    for line in lines[1:]:
        if "implement_command" in line:
            calls += [line.replace(" name,", f" {name!r},") for name in ("start_transaction", "stop_transaction")]
        elif "[, severity]" in line:
            calls += [line.replace("[, severity]", ""), line.replace("[, severity]", ", severity")]
        elif found := SLASHES.fullmatch(line):
            calls += [f"log.{level}('as {level}')" for level in found[1].split("/")]
        else:
            calls.append(line.replace(" name,", " 'public_key_ocmf',"))
    called = {name for call in calls for name in re.findall(r"module\.(\w+)\(", call)}
    offered = {name for name in vars(Module) if not name.startswith("_")} | {"shutdown_handler"}
    assert called == offered
    module_py = script(
        "\n".join(calls), begin=f"import threading\n{lines[0]}\n{NAMES}", end="\nthreading.Event().wait()\n"
    )
    with EverestBench(module_py, shutdown_handler=True) as bench:
        told = [line for line in logged(bench, 6) if line.startswith("as ")]
        assert told == [f"as {level}" for level in ("verbose", "debug", "info", "warning", "error", "critical")]
        assert [it.value for it in bench.published("public_key_ocmf")] == ["3059"]
        assert [(it.change, it.effective, it.severity) for it in bench.errors_log] == [
            ("raised", True, "Low"),  # the default
            ("raised", False, "High"),  # of a type and sub-type that are active: nothing happens
            ("cleared", True, ""),
        ]
        assert bench.ready() > 0
        assert bench.call("stop_transaction", STOP) == {"status": "OK"}


def test_what_cannot_be_published_is_refused(script: Script) -> None:
    own = f"""
from decimal import Decimal
value = {VALUE!r}
def ready():
    for number in (Decimal("10.5"), float("nan")):
        attempt(lambda: module.publish_variable("main", "powermeter", value | {{"voltage_V": {{"DC": number}}}}))
    attempt(lambda: module.publish_variable("main", "public_key_ocmf", "\\ud800"))
    attempt(lambda: module.publish_variable("main", "odd", 1))
    attempt(lambda: module.publish_variable("main", "powermeter", value))
"""
    with EverestBench(script(own)) as bench:
        bench.ready()
        kinds = [line.partition(":")[0] for line in logged(bench, 5)]
        assert kinds == ["TypeError", "ValueError", "UnicodeEncodeError", "RuntimeError", "fine"]
        assert [published.value for published in bench.published("powermeter")] == [VALUE]


@pytest.mark.parametrize(
    "own", ["answer = {'status': 'FINE'}", "ready = lambda: module.publish_variable('main', 'powermeter', {})"]
)
def test_what_breaks_the_interface_fails_the_test(script: Script, own: str) -> None:
    def use(bench: EverestBench) -> None:
        with bench:
            bench.ready()
            bench.call("start_transaction", START)

    with pytest.raises(AssertionError, match=r"FINE|timestamp"):
        use(EverestBench(script(f"{own}\n")))


@pytest.mark.parametrize("handler", ["raise ValueError('odd')", "raise SystemExit(0)", "return {1, 2}"])
def test_handler_that_fails_ends_the_process(script: Script, handler: str) -> None:
    own = f"import atexit\natexit.register(log.info, 'left in order')\ndef start(args): {handler}\n"
    with EverestBench(script(own)) as bench:
        bench.ready()
        with pytest.raises(ModuleDied, match="exit code 1"):
            bench.call("start_transaction", START)
        assert "exception during handling of start_transaction" in bench.stderr
        assert bench.log_lines == []


def test_session_that_is_lost_ends_the_process(script: Script) -> None:
    with EverestBench(script("session = None\n")) as bench:
        assert bench.wait_exit() == 1
        assert "keep a reference" in bench.stderr


def test_calls_in_the_wrong_order_are_refused(script: Script) -> None:
    own = f"""
attempt(lambda: module.publish_variable("main", "powermeter", {VALUE!r}))
attempt(lambda: module.implement_command("main", "odd", start))
attempt(lambda: module.implement_command("other", "start_transaction", start))
attempt(lambda: module.implement_command("main", "start_transaction", start))
attempt(lambda: module.implement_command("main", "start_transaction", start))
attempt(lambda: module.init_done(ready))
threading.Event().wait()
"""
    reasons = (
        "before init_done", "no command of the interface", "no implementation 'other'", "fine", "has a handler already",
        "missing: ['stop_transaction']",
    )  # fmt: skip
    with EverestBench(script(own)) as bench:
        for line, reason in zip(logged(bench, 6), reasons, strict=True):
            assert reason in line
        with pytest.raises(CommandRefused, match="before init_done"):
            bench.call("start_transaction", START)


def test_errors_are_raised_and_cleared_once(script: Script) -> None:
    own = """
fault, sub_type = "powermeter/CommunicationFault", "Communication timed out"
factory, monitor = module.get_error_factory("main"), module.get_error_state_monitor_impl("main")
def ready():
    module.clear_error("main", fault, "")
    for severity in (error.Severity.Low, error.Severity.High):
        module.raise_error("main", factory.create_error(fault, sub_type, "a message", severity))
        log.info(str(monitor.is_error_active(fault, sub_type)))
    for _ in range(2):
        module.clear_error("main", fault, sub_type)
    attempt(lambda: factory.create_error("powermeter/Odd", "", ""))
"""
    with EverestBench(script(own), active_errors=[(FAULT, "")]) as bench:
        bench.ready()
        *active, odd = logged(bench, 3)
        assert active == ["True", "True"]
        assert odd.startswith("RuntimeError")
        assert [(it.change, it.effective, it.sub_type, it.severity) for it in bench.errors_log] == [
            ("cleared", True, "", ""), ("raised", True, SUB_TYPE, "Low"), ("raised", False, SUB_TYPE, "High"),
            ("cleared", True, SUB_TYPE, ""), ("cleared", False, SUB_TYPE, ""),
        ]  # fmt: skip
        assert bench.errors_active == set()
