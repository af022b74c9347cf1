"""The real module.py, run as EVerest's manager runs it, against a double of everestpy and a simulated meter."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

import iem_dcr.everest
from iem_dcr import ocmf
from tests.support.api_bench import start_payload
from tests.support.bench import CI
from tests.support.command_line import Simulator
from tests.support.everest_bench import EverestBench, ModuleDied
from tests.support.tools import IS_MEASURED, UNMEASURED

MODULE = Path(iem_dcr.everest.__file__).parent / "IsabellenhuetteIemDcr" / "module.py"
FAULT = ("powermeter/CommunicationFault", "Communication timed out")
VENDOR_ERROR = ("powermeter/VendorError", "IEM-DCR error state")
BAD = "0x0001, 0x00000000, 0x00, 0x00"
HEALTHY = "0x0000, 0x00000000, 0x00, 0x00"


def config(address: str, **settings: Any) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    quick = {"resilience_initial_connection_retry_delay": 1000}
    return {"ip_address": host, "port_http": int(port), "CI": CI} | quick | settings


def module(
    meter: Simulator, *, shutdown_handler: bool = False, overlapping: bool = False, **settings: Any
) -> EverestBench:
    given = config(meter.address, **settings)
    return EverestBench(MODULE, given, shutdown_handler=shutdown_handler, overlapping=overlapping)


def start(transaction_id: str = "T-1", **fields: Any) -> dict[str, Any]:
    return {"value": start_payload(transaction_id, **fields)}


def stop(transaction_id: str = "T-1") -> dict[str, Any]:
    return {"transaction_id": transaction_id}


def spoiled(folder: Path, program: str, address: str = "127.0.0.1:1", **variables: str) -> EverestBench:
    """A module whose process runs a program before anything of its own: something in it is wrong then."""
    (folder / "sitecustomize.py").write_text(program)
    return EverestBench(MODULE, config(address), environment={"PYTHONPATH": str(folder)} | variables)


def critical(everest: EverestBench) -> list[str]:
    return [line.text for line in everest.log_lines if line.level == "critical"]


def receipt_of(answer: dict[str, Any]) -> ocmf.Receipt:
    assert answer["status"] == "OK", answer
    return ocmf.parse(answer["signed_meter_value"]["signed_meter_data"])


def values(everest: EverestBench, count: int) -> None:
    everest.wait_for(lambda: len(everest.published("powermeter")) >= count)


def live(everest: EverestBench) -> None:
    everest.ready()
    values(everest, 1)


def more_values(everest: EverestBench, count: int = 2) -> None:
    values(everest, len(everest.published("powermeter")) + count)


def assert_ended_well(everest: EverestBench, number: signal.Signals | None = signal.SIGTERM) -> None:
    """End it by a signal, and see that it ends in good order; None: it was told already."""
    if number is not None:
        os.kill(everest.pid, number)
    # While coverage saves what it has measured, the other threads go on, and sometimes that crashes.
    assert everest.wait_exit() in ((0, -signal.SIGSEGV) if IS_MEASURED else (0,))
    assert everest.stderr == ""


# --- start-up ---


def test_a_session() -> None:
    with Simulator() as meter, module(meter, TT_initial="0,59 EUR/kWh") as everest:
        live(everest)
        assert everest.call("stop_transaction", stop(""))["status"] == "UNEXPECTED_ERROR"
        assert everest.call("start_transaction", start()) == {"status": "OK"}
        more_values(everest)
        answer = everest.call("stop_transaction", stop())
        key = everest.published("public_key_ocmf")[-1].value
        assert ocmf.verify(receipt_of(answer), key).outcome is ocmf.Outcome.VALID
        assert receipt_of(answer).identification == "04ABT-1"
        assert answer["signed_meter_value"]["public_key"] == key
        assert re.fullmatch(r"\d{4}-.*\.\d{3}Z", answer["signed_meter_value"]["timestamp"])
        assert everest.errors_log == []
        assert [line.text for line in everest.log_lines if line.level in ("error", "critical")] == []
        assert "04ABT-1" not in "".join(line.text for line in everest.log_lines)
        assert_ended_well(everest)


@pytest.mark.parametrize(("key", "value"), [("CI", ""), ("timezone", "Mars/Olympus"), ("port_http", 0), ("CT", "A|B")])
def test_wrong_configuration_is_one_critical_line_and_no_ready(key: str, value: Any) -> None:
    with EverestBench(MODULE, config("127.0.0.1:1") | {key: value}) as everest:
        assert everest.wait_exit() == 1
        (line,) = [line for line in everest.log_lines if line.level == "critical"]
        assert key in line.text
        assert str(value) in line.text
        assert everest.events_of("init_done") == []
        assert everest.stderr == ""


UNNEEDED = ("click", "rich", "prometheus_client", "aiomqtt", "paho", "aiohttp.web_", "iem_dcr.cli")
LATER = {"cryptography", "sqlite3"}
SAYS_WHAT_IT_IMPORTED = """
import os, sys, threading, time
def watch():
    while True:
        with open(os.environ["IMPORTED"] + ".new", "w") as file:
            file.write("\\n".join(list(sys.modules)))
        os.replace(os.environ["IMPORTED"] + ".new", os.environ["IMPORTED"])
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
"""


@UNMEASURED
def test_imports(tmp_path: Path) -> None:
    imported = tmp_path / "imported"
    with (
        Simulator() as meter,
        spoiled(tmp_path, SAYS_WHAT_IT_IMPORTED, meter.address, IMPORTED=str(imported)) as everest,
    ):
        everest.wait_ready_to_be_told()
        everest.wait_for(lambda: imported.exists() and "iem_dcr.everest.module" in imported.read_text())
        meter.of(lambda it: it.power_cycle(off_s=0.1, boot_s=3.0))
        everest.ready()
        everest.wait_for(lambda: [line for line in everest.log_lines if "not initialised" in line.text])
        assert LATER.isdisjoint(imported.read_text().split())
        values(everest, 1)
        everest.wait_for(lambda: LATER.issubset(imported.read_text().split()))
        assert everest.call("start_transaction", start())["status"] == "OK"
        assert everest.call("stop_transaction", stop())["status"] == "OK"
        names = imported.read_text().split()
        assert [name for name in names if name.startswith((*UNNEEDED, "iem_dcr.simulator"))] == []


# --- the preconditions of a start ---


def test_live_values_go_on_after_a_refused_start() -> None:
    with Simulator() as meter, module(meter) as everest:
        live(everest)
        foreign = everest.call("start_transaction", start(evse_id="DE*PNX*E1234567*1"))
        assert foreign["status"] == "NOT_SUPPORTED"
        assert CI in foreign["error"]
        more_values(everest)
        meter.of(lambda it: it.configure(XC=BAD))
        in_error = everest.call("start_transaction", start("T-2"))
        assert in_error["status"] == "NOT_SUPPORTED"
        assert BAD in in_error["error"]
        more_values(everest)
        assert "refused" in everest.call("stop_transaction", stop("T-2"))["error"]
        everest.wait_for(lambda: everest.errors_active == {VENDOR_ERROR})
        meter.of(lambda it: it.configure(XC=HEALTHY))
        everest.wait_for(lambda: not everest.errors_active)
        assert [(entry.change, entry.effective) for entry in everest.errors_log] == [
            ("raised", True),
            ("cleared", True),
        ]
        assert_ended_well(everest)


# --- threads ---


def test_commands_before_ready_are_answered() -> None:
    with Simulator() as meter, module(meter) as everest:
        everest.wait_ready_to_be_told()
        early = everest.call_async("stop_transaction", stop(""))
        everest.ready()
        assert early.result(70)["status"] == "UNEXPECTED_ERROR"


def test_commands_on_many_threads_at_once() -> None:
    """Harder than everestpy, which calls the handler of one command once at a time."""
    with Simulator() as meter, module(meter, overlapping=True) as everest:
        live(everest)
        names = [f"T-{number}" for number in range(20)]
        starting = [everest.call_async("start_transaction", start(name)) for name in names]
        stopping = [everest.call_async("stop_transaction", stop(name)) for name in names]
        answers = [future.result(120) for future in (*starting, *stopping)]
        assert len(answers) == 40
        receipts = [receipt_of(answer) for answer in answers[20:] if answer["status"] == "OK"]
        assert len({event.data["thread"] for event in everest.events_of("called")}) > 4
        assert {receipt.identification for receipt in receipts} <= {f"04AB{name}" for name in names}
        assert receipt_of(everest.call("stop_transaction", stop("T-19"))).identification == "04ABT-19"
        everest.call("stop_transaction", stop(""))  # where a stop overtook its start, that one may still run
        assert not meter.runs
        assert_ended_well(everest)


def test_errors_from_before_a_restart_are_cleared_unless_they_are_raised_again() -> None:
    with Simulator() as meter:
        everest = EverestBench(MODULE, config(meter.address), active_errors=[FAULT, VENDOR_ERROR])
        with everest:
            live(everest)
            everest.wait_for(lambda: not everest.errors_active)
            assert {entry.change for entry in everest.errors_log} == {"cleared"}
        meter.of(lambda it: it.configure(XC=BAD))
        with EverestBench(MODULE, config(meter.address), active_errors=[FAULT, VENDOR_ERROR]) as everest:
            live(everest)
            everest.wait_for(lambda: [entry.change for entry in everest.errors_log] == ["cleared", "cleared", "raised"])
            assert everest.errors_active == {VENDOR_ERROR}


# --- stopping ---


@pytest.mark.parametrize(("when", "number"), [
    ("before ready", signal.SIGTERM), ("before ready", signal.SIGHUP), ("meter absent", signal.SIGTERM),
    ("in a session", signal.SIGTERM), ("in a command", signal.SIGTERM), ("in a session", None),
])  # fmt: skip
def test_signal_ends_the_module_and_waiting_commands_are_answered(when: str, number: signal.Signals | None) -> None:
    with Simulator() as meter, module(meter, shutdown_handler=number is None) as everest:
        waiting = []
        if when == "before ready":
            everest.wait_ready_to_be_told()
            commands = [("stop_transaction", stop("")), ("start_transaction", start())]
            waiting = [everest.call_async(*command) for command in commands]
            everest.wait_for(lambda: len(everest.events_of("called")) == len(waiting))
        elif when == "meter absent":
            meter.of(lambda it: it.power_cycle(off_s=60, boot_s=1))
            everest.ready()
            everest.wait_for(lambda: [line for line in everest.log_lines if "not initialised" in line.text])
            waiting = [everest.call_async("stop_transaction", stop("from before"))]
            everest.wait_for(lambda: everest.events_of("called"))
        else:
            live(everest)
        if when == "in a session":
            assert everest.call("start_transaction", start())["status"] == "OK"
        if when == "in a command":
            meter.fault(kind="stall", node="/gw", count=100)
            waiting = [everest.call_async("start_transaction", start())]
            everest.wait_for(lambda: meter.of(lambda it: it.faults.as_json()[0]["count"]) != 100)
        if number is None:  # newer versions of everestpy
            everest.shutdown()
        assert_ended_well(everest, number)
        assert [future.result(1)["status"] for future in waiting] == ["UNEXPECTED_ERROR"] * len(waiting)


def test_repeated_signals_end_the_module_in_good_order() -> None:
    with Simulator() as meter, module(meter) as everest:
        live(everest)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) * 17:
            with contextlib.suppress(ProcessLookupError):
                os.kill(everest.pid, number)
        assert_ended_well(everest, None)


def test_commands_during_the_end_are_answered() -> None:
    with Simulator() as meter, module(meter) as everest:
        live(everest)
        meter.fault(kind="stall", node="/gw", count=100)
        starting = everest.call_async("start_transaction", start())
        everest.wait_for(lambda: everest.events_of("called"))
        os.kill(everest.pid, signal.SIGTERM)
        with contextlib.suppress(ModuleDied):
            for number in range(50):
                everest.call_async("stop_transaction", stop(f"T-{number}"))
        assert_ended_well(everest, None)
        assert starting.result(1)["status"] == "UNEXPECTED_ERROR"
        called = [event.data["id"] for event in everest.events_of("called")]
        answered = [event.data["id"] for event in everest.events_of("answered")]
        # Calls of stop come one by one, and the process may leave just when the last of them comes.
        assert set(called[:-1]) <= set(answered)


# --- when something in the module itself goes wrong ---

FAILS_ONCE = """
import iem_dcr.driver.driver as driver
run, failed = driver.MeterDriver.run, []
async def once(self):
    if not failed:
        failed.append(True)
        raise RuntimeError("a mistake")
    await run(self)
driver.MeterDriver.run = once
"""
FAILS_ALWAYS = """
import asyncio
import iem_dcr.driver.driver as driver
async def never(self):
    raise asyncio.CancelledError
driver.MeterDriver.run = never
"""
FAILS_TO_BEGIN = """
import iem_dcr.driver
class Mistaken(iem_dcr.driver.MeterDriver):
    def __init__(self, *args, **kwargs):
        raise RuntimeError("a mistake")
iem_dcr.driver.MeterDriver = Mistaken
"""
FAILS_IN_A_COMMAND = """
import iem_dcr.driver.driver as driver
async def stop(self, transaction_id):
    raise RuntimeError("a mistake")
driver.MeterDriver.stop_from_json = stop
"""
ANSWERS_AS_THE_WAIT_ENDS = """
from concurrent.futures import Future
result, late = Future.result, []
def too_late_once(self, timeout=None):
    answer = result(self, timeout)
    if timeout is not None and timeout > 30 and not late:
        late.append(True)
        raise TimeoutError
    return answer
Future.result = too_late_once
"""


def test_answer_that_comes_as_the_wait_ends_is_returned(tmp_path: Path) -> None:
    with Simulator() as meter, spoiled(tmp_path, ANSWERS_AS_THE_WAIT_ENDS, meter.address) as everest:
        live(everest)
        assert everest.call("start_transaction", start()) == {"status": "OK"}
        assert receipt_of(everest.call("stop_transaction", stop())).identification is not None
        assert_ended_well(everest)


def test_failed_driver_is_logged_and_started_again(tmp_path: Path) -> None:
    with Simulator() as meter, spoiled(tmp_path, FAILS_ONCE, meter.address) as everest:
        live(everest)
        (line,) = critical(everest)
        assert "a mistake" in line
        assert everest.call("start_transaction", start())["status"] == "OK"
        assert_ended_well(everest)


def test_module_that_cannot_be_created_says_so_and_ends(tmp_path: Path) -> None:
    with spoiled(tmp_path, FAILS_TO_BEGIN) as everest:
        assert everest.wait_exit() == 1
        (line,) = critical(everest)
        assert "a mistake" in line
        assert everest.stderr == ""


def test_driver_that_always_fails_is_tried_again_and_its_commands_are_answered(tmp_path: Path) -> None:
    with Simulator() as meter, spoiled(tmp_path, FAILS_ALWAYS, meter.address) as everest:
        everest.ready()
        everest.wait_for(lambda: len(critical(everest)) >= 2)
        waiting = everest.call_async("stop_transaction", stop(""))
        everest.wait_for(lambda: everest.events_of("called"))
        assert_ended_well(everest)
        assert waiting.result(1)["status"] == "UNEXPECTED_ERROR"
        assert len(critical(everest)) < 10


def test_bug_in_a_command_is_an_answer(tmp_path: Path) -> None:
    internal = {"status": "UNEXPECTED_ERROR", "error": "internal error: RuntimeError"}
    with Simulator() as meter, spoiled(tmp_path, FAILS_IN_A_COMMAND, meter.address) as everest:
        live(everest)
        assert everest.call("stop_transaction", stop()) == internal
        assert_ended_well(everest)


WAITS_IN_THE_IMPORTS = """
import os, sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "iem_dcr.driver":
            open(os.environ["SIGN"], "w").close()
            while not os.path.exists(os.environ["GO"]):
                time.sleep(0.01)
sys.meta_path.insert(0, Slow())
"""


@UNMEASURED
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_during_the_imports_ends_the_module_in_good_order(number: signal.Signals, tmp_path: Path) -> None:
    sign, go = tmp_path / "sign", tmp_path / "go"
    with spoiled(tmp_path, WAITS_IN_THE_IMPORTS, SIGN=str(sign), GO=str(go)) as everest:
        everest.wait_for(sign.exists)
        os.kill(everest.pid, number)
        go.touch()
        assert everest.wait_exit() == 0
        assert everest.events_of("init_done") == []
        assert everest.stderr == ""


LOG_THAT_HANGS = """
import logging, os, threading
handle = logging.Handler.handle
def hanging(self, record):
    if threading.current_thread() is not threading.main_thread() or "not initialised" not in record.getMessage():
        return handle(self, record)
    with self.lock:
        open(os.environ["SIGN"], "w").close()
        threading.Event().wait()
logging.Handler.handle = hanging
"""
PUBLISH_THAT_HANGS = """
import os, threading
import everest.framework
publish = everest.framework.Module.publish_variable
def hanging(self, *arguments):
    if len(published) == 2:
        open(os.environ["SIGN"], "w").close()
        threading.Event().wait()
    published.append(arguments)
    publish(self, *arguments)
published = []
everest.framework.Module.publish_variable = hanging
"""


@pytest.mark.parametrize(("program", "is_off"), [(LOG_THAT_HANGS, True), (PUBLISH_THAT_HANGS, False)])
def test_what_hangs_delays_no_answer_and_not_the_end(tmp_path: Path, program: str, is_off: bool) -> None:  # noqa: FBT001  of the table
    sign = tmp_path / "sign"
    with Simulator() as meter, spoiled(tmp_path, program, meter.address, SIGN=str(sign)) as everest:
        if is_off:
            meter.of(lambda it: it.power_cycle(off_s=60, boot_s=1))
        everest.ready()
        everest.wait_for(sign.exists)
        waiting = [everest.call_async("start_transaction", start()), everest.call_async("stop_transaction", stop())]
        everest.wait_for(lambda: len(everest.events_of("called")) == len(waiting))
        assert_ended_well(everest)
        stopping = {"status": "UNEXPECTED_ERROR", "error": "the module is stopping"}
        assert [future.result(1) for future in waiting] == [stopping, stopping]


def test_default_ci_of_the_vendors_module_is_an_error() -> None:
    with Simulator() as meter, module(meter, CI="1234") as everest:
        live(everest)
        (line,) = [line.text for line in everest.log_lines if line.level == "error"]
        assert line.startswith("CI is 1234, the default of the vendor's module: it is being frozen into the meter")
        assert "Set CI in this module's config_module to the evse_id of EvseManager" in line
        assert everest.log_lines[0].text == line
