"""iem-dcr doctor: what it says of the faults an installer meets, and that it only asks."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import re
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from iem_dcr.cli.doctor import lines, show
from iem_dcr.config import Settings
from iem_dcr.device import messages
from iem_dcr.diagnostics import doctor, nodes
from iem_dcr.diagnostics.checks import CHECKS
from iem_dcr.diagnostics.evidence import Evidence
from iem_dcr.diagnostics.report import FAILED, NOT_ASKED, OK, WARNING, Report, Result, State
from iem_dcr.diagnostics.snapshot import TimedValue
from iem_dcr.errors import MeterUnreachableError
from iem_dcr.simulator import Fault, SimulatedMeter, SimulatorServer
from tests.support.any_json import json_values
from tests.support.bench import CI, SECRET, SERIAL, meter_options
from tests.support.command_line import Simulator, run
from tests.support.raw_server import Do, RawServer, Then, answer
from tests.support.recorded import FIRMWARE, RecordedAnswer, RecordedMeter, Recording
from tests.support.snapshots import assert_snapshot
from tests.support.virtual_time import VirtualWall, run_virtual, virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from typing import TypeAlias

    Prepare: TypeAlias = Callable[[SimulatedMeter], Coroutine[None, None, None]]

WALL_AT = VirtualWall().offset
BASE = "/counter/v1/ocmf"
AT_MOST_S = 60.0
RUNS = "not asked while a transaction runs"


def post(meter: SimulatedMeter, node: str, body: dict[str, Any]) -> None:
    assert meter.handle("POST", BASE + node, json.dumps(body).encode()).status == 200
    meter.requests.pop()


def set_up(meter: SimulatedMeter, *, ci: str = CI, **off: float) -> None:
    """Give it a charge point, and a clock that is so far off."""
    time = (WALL_AT + timedelta(hours=1) + timedelta(**off)).replace(tzinfo=None).isoformat(timespec="milliseconds")
    post(meter, "/gw", {"CT": "EVSEID", "CI": ci, "TM": time.replace(".", ",") + "+0100"})


async def sign(meter: SimulatedMeter) -> None:
    """Let it sign a receipt."""
    post(meter, "/receipt", {"TX": "B"})
    await asyncio.sleep(1.0)
    meter.clear_load()
    post(meter, "/receipt", {"TX": "E"})
    await asyncio.sleep(1.0)


async def nothing(meter: SimulatedMeter) -> None:
    """Leave it as it is."""


def only_set_up(*, ci: str = CI, **off: float) -> Prepare:
    async def prepare(meter: SimulatedMeter) -> None:
        set_up(meter, ci=ci, **off)

    return prepare


def ready(
    *faults: Fault,
    load: tuple[float, float] | None = None,
    runs: bool = False,
    ci: str = CI,
    hours: float = 0,
    **become: Any,
) -> Prepare:
    """Set it up and let it sign a receipt; then let it fail, charge, begin a transaction, or become another."""

    async def prepare(meter: SimulatedMeter) -> None:
        set_up(meter, ci=ci, hours=hours)
        await sign(meter)
        meter.configure(**become)
        meter.faults.add(*faults)
        if load is not None:
            meter.set_load(*load)
        if runs:
            post(meter, "/receipt", {"TX": "B"})

    return prepare


def examined(
    prepare: Prepare = nothing,
    configured: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Report, SimulatedMeter]:
    """Examine a simulated meter under virtual time; see that it got GETs alone, and that it took a minute at most."""

    async def main() -> tuple[Report, SimulatedMeter]:
        chosen = {"charge_s": 0.2, "signature_encoding": "der"} | options
        async with SimulatorServer(meter_options(**chosen)) as server:
            await prepare(server.meter)
            began_s = asyncio.get_running_loop().time()
            settings = None if configured is None else Settings.of({"CI": CI} | configured)
            report = await doctor.examine(server.host, server.port, settings, wall=VirtualWall())
            assert asyncio.get_running_loop().time() - began_s <= AT_MOST_S
            assert {request.method for request in server.meter.requests} <= {"GET"}
            return report, server.meter

    return run_virtual(main())


def normal(report: Report) -> str:
    """Write a report as it is shown, without what is another at every run."""
    text = "".join(f"{line.plain}\n" for line in lines(report))
    text = text.replace(report.address, "ADDRESS")
    text = re.sub(r"in \d+ ms (\(.*\)), \d+ ms at worst", r"in N ms \1, N ms at worst", text)
    return re.sub(r"over \d\.\d s", "over 3.0 s", re.sub(r"[0-4]\.\d s (ahead of|behind)", "0.0 s behind", text))


# --- what is shown ----------------------------------------------------------------------------------------------------

ALL_WRONG = {"XC": "0x0000, 0x00000100, 0x00, 0x00", "ST": "F", "keep_alive": "close"}
NO_KEY = Fault("garbage", node="/publickey", count=9)


@pytest.mark.parametrize(("name", "prepare", "configured", "options", "status"), [
    ("in-order", ready(), {"meter_serial": SERIAL}, {}, 0),
    ("powered-up", nothing, None, {}, 0),
    ("all-wrong", ready(NO_KEY, load=(-125.0, 400.0), hours=1, ci="DE*OLD*E9"), {"meter_serial": "1ISA1"}, ALL_WRONG,
     1),
])  # fmt: skip
def test_the_report(
    name: str, prepare: Prepare, configured: dict[str, Any] | None, options: dict[str, Any], status: int
) -> None:
    report, _ = examined(prepare, configured, **options)
    assert_snapshot(f"doctor-{name}.txt", normal(report))
    assert report.exit_status == status


@pytest.mark.parametrize("name", sorted(folder.name for folder in FIRMWARE.iterdir() if folder.is_dir()))
@virtual
async def test_recorded_firmware(name: str) -> None:
    recording = Recording.load(FIRMWARE / name)
    async with RecordedMeter(recording) as meter:
        report = await doctor.examine("127.0.0.1", meter.port, wall=VirtualWall(recording.at))
    assert all(request.startswith("GET ") for request in meter.requests)
    assert_snapshot(f"doctor-{name}.txt", normal(report))


def test_json() -> None:
    with Simulator() as simulator:
        done = run("doctor", simulator.address, "--json")
        (told,) = done.events
        assert simulator.methods == {"GET"}
    assert (done.status, done.err) == (0, "")
    assert (told["is_meter"], told["exit_status"], told["address"]) == (True, 0, simulator.address)
    assert [(one["number"], one["check"]) for one in told["checks"]] == list(enumerate(CHECKS, 1))
    assert {one["state"] for one in told["checks"]} == {"ok", "warning"}
    assert told["checks"][0]["values"].keys() == {"asked", "answered", "median_s", "worst_s"}


@pytest.mark.parametrize("width", [1, 8, 20, 40, 50, 80, 200])
def test_no_terminal_is_too_narrow_for_a_word(width: int) -> None:
    written = io.StringIO()
    report = Report("127.0.0.1:80", is_meter=True, results={"errors": Result(FAILED, "a word " * 9, "do it")})
    show(report, Console(file=written, width=width, force_terminal=True, color_system=None), is_terminal=True)
    for word, count in (("failed", 2), ("Errors", 1), ("word", 9), ("->", 1), ("do", 1)):
        assert written.getvalue().count(word) == count


# --- the configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("document", "port", "status", "words"), [
    ("[[meter]]\nip_address = '127.0.0.1'\nport_http = 9\nmodule_id = 'a'\n[[meter]]\nmodule_id = 'b'\n", 8, 2,
     "has 2 meters and none at 127.0.0.1:8: 127.0.0.1:9, 192.168.60.12:80"),
    ("[mqtt]\npassword_file = 'not-here'\n[[meter]]\nip_address = '127.0.0.1'\nport_http = 9\nCI = 'A'\n", 9, 1,
     "the connection is refused"),
    ("[[meter]]\nip_address = '127.0.0.1'\nport_http = 9\n", 9, 1, "Error: CI 1234, the default of the vendor's"),
    ("[[meter]]\nport_htp = 9\n", 9, 2, "did you mean port_http?"),
])  # fmt: skip
def test_configuration_file(tmp_path: Path, document: str, port: int, status: int, words: str) -> None:
    file = tmp_path / "site.toml"
    file.write_text(document)
    done = run("doctor", f"127.0.0.1:{port}", "--config", str(file))
    assert done.status == status
    assert words in (done.out if status == 1 else done.err)


@pytest.mark.parametrize(
    ("prepare", "configured", "words"),
    [
        (only_set_up(ci="1234"), None, "is frozen in this meter until its power is switched off and on"),
        (only_set_up(ci="1234"), "DE*NEW*E1", "is frozen in this meter"),
        (nothing, "1234", "freezes it into this meter the next time it is started"),
        (only_set_up(), "1234", "freezes it into this meter after the meter's next power cycle"),
    ],
)
def test_the_default_of_the_vendor_is_the_first_that_is_said(
    prepare: Prepare, configured: str | None, words: str
) -> None:
    report, _ = examined(prepare, None if configured is None else {"CI": configured})
    assert report.results["gateway"].state is FAILED
    first = next(lines(report)).plain
    assert first.startswith("Error: CI 1234, ")
    assert words in first
    assert "Set CI to the evse_id of EvseManager" in first
    assert report.to_json()["errors"] == [first.removeprefix("Error: ")]


# --- what each check says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("check", "prepare", "options", "state", "words"), [
    ("gateway", only_set_up(), {"configured": {"CI": "DE*NEW*E1"}}, FAILED, "powered off and on"),
    ("serial", nothing, {"configured": {"meter_serial": "1ISA0000000001"}}, FAILED, "set meter_serial"),
    ("serial", nothing, {"configured": {"meter_serial": "pin"}}, OK, SERIAL),
    ("clock", only_set_up(seconds=20), {}, WARNING, "it is wrong"),
    ("clock", only_set_up(minutes=-10), {}, FAILED, "it is wrong"),
    ("clock", only_set_up(hours=-1), {}, FAILED, "1 h to the second: a wrong time zone or summer time"),
    ("clock", only_set_up(hours=2), {}, FAILED, "2 h to the second"),
    ("clock", only_set_up(days=-20500), {}, WARNING, "it shows 1970-01"),
    ("clock", only_set_up(), {"configured": {"timezone": "+0300"}}, WARNING,
     "offset from UTC is +0100, but the configuration has +0300 now"),
    ("clock", only_set_up(), {"sync_flag": False}, WARNING, "no flag"),
    ("reading", ready(load=(-125.0, 400.0)), {}, WARNING, "wrong way round"),
    ("register", ready(load=(125.0, 400.0)), {}, OK, "import 20.5"),
    ("key", nothing, {"public_key_form": "raw"}, OK, "X‖Y as hex"),
    ("api", nothing, {}, WARNING, "not known without a receipt"),
    ("api", ready(), {"firmware": "v1"}, OK, "below v1"),
    ("api", ready(), {"firmware": "v2"}, OK, "below v2"),
    ("receipt", nothing, {}, WARNING, "signed nothing yet"),
    ("receipt", ready(), {"signature_encoding": "raw"}, WARNING, "valid; found: signature-form"),
    ("receipt", ready(), {"ST": "M"}, FAILED, "the transparency software refuses it; found: status-not-good"),
    ("receipt", ready(MS=SERIAL, private_key=SECRET + 1), {}, FAILED, "NOT VALID"),
    ("receipt", ready(MS="1SIM0000000043"), {}, FAILED, "is from meter 1SIM0000000042"),
    ("reachable", ready(Fault("lose-answer", node="/metervalue")), {}, FAILED, "1 of 6 requests had no answer"),
])  # fmt: skip
def test_a_check(check: str, prepare: Prepare, options: dict[str, Any], state: State, words: str) -> None:
    result = examined(prepare, **options)[0].results[check]
    assert (result.state, words in f"{result.text} {result.to_do}") == (state, True), result


@pytest.mark.parametrize("kind", ["garbage", "server-error", "lose-answer", "stall"])
@pytest.mark.parametrize("node", ["/publickey", "/gw", "/transaction"])
def test_a_node_that_fails(node: str, kind: Any) -> None:
    report, _ = examined(ready(Fault(kind, node=node, count=99)))
    assert report.exit_status == (0 if (node, kind) == ("/transaction", "garbage") else 1)
    assert report.is_meter


def row(kwh: str, code: str = "1-b:1.8.e") -> dict[str, str]:
    return {"RV": kwh, "RI": code, "RU": "kWh"}


FIELDS: dict[str, Any] = {
    "MS": "1SIM1", "TM": "2026-03-01T13:00:00,000+0100 I", "EF": "", "ST": "G", "XT": False, "XS": "0x1", "XC": "0x0",
    "U2": 400, "I": 100, "P": 40000, "RD": [row("1.000"), row("0.000", "1-b:2.8.e")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("check", "values", "state", "words"),
    [
        ("reading", [{"P": 20000}], FAILED, "U2·I is 40000 W"),
        ("reading", [{"P": -40000}], FAILED, "P has the opposite sign"),
        ("reading", [{"U2": -400, "P": -40000}], FAILED, "the voltage is negative"),
        ("reading", [{"P": 20000}, {}], OK, "1 of 2 readings"),
        ("reading", [{"U2": 60.1, "I": 5, "P": 300}], OK, ""),
        ("reading", [{"U2": None}], WARNING, "not all values can be read"),
        ("register", [{"RD": [row("2.000")]}, {"RD": [row("1.999")]}], FAILED, "a register fell"),
        ("register", [{}, {}, {}, {}], FAILED, "none of about 33 Wh was counted"),
        ("register", [{"P": 0, "RD": [row("1"), row("2", "1-b:2.8.e")]}], WARNING, "more was exported"),
        ("clock", [{}, {}, {}, {}], FAILED, "it stands still"),
        ("clock", [{"TM": "2026-03-01T13:00:00,000+0100 R"}], WARNING, "relative to an unknown start"),
        ("clock", [{"TM": "?"}], WARNING, "cannot be read"),
        ("serial", [{}, {"MS": "1SIM2"}], FAILED, "two meters"),
        ("status", [{"EF": "E"}], FAILED, ""),
        ("status", [{"EF": "?"}], WARNING, ""),
        ("errors", [{"XC": "0x0, 0x1"}], FAILED, ""),
        ("errors", [{"XC": ""}], WARNING, "XC cannot be read"),
    ],
)
def test_values(check: str, values: list[dict[str, Any]], state: State, words: str) -> None:
    """Judge values that were read a second apart."""
    read = [messages.meter_value(messages.decode(json.dumps(FIELDS | changes).encode())) for changes in values]
    timed = [TimedValue(value, float(at), 0.01, WALL_AT) for at, value in enumerate(read)]
    result = doctor.judge(Evidence("m:80", values=timed)).results[check]
    assert (result.state, words in result.text) == (state, True), result.text


# --- while a transaction runs -----------------------------------------------------------------------------------------


def asked(meter: SimulatedMeter) -> list[str]:
    return [request.node for request in meter.requests]


def acting(prepare: Prepare, node: str, count: int, TX: str) -> Prepare:
    """Prepare it, and let its transaction begin or end when a node is asked for the ``count``-th time."""

    async def prepared(meter: SimulatedMeter) -> None:
        await prepare(meter)
        handle = meter.handle

        def watched(method: str, path: str, body: bytes = b"") -> Any:
            told = handle(method, path, body)
            if path == BASE + node and asked(meter).count(node) == count:
                meter.clear_load()
                post(meter, "/receipt", {"TX": TX})
            return told

        meter.handle = watched  # type: ignore[method-assign]

    return prepared


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(ready(runs=True), id="it goes on"),
        # XT is false after the last live value, which may be a glitch.
        pytest.param(acting(ready(runs=True), "/metervalue", 6, "E"), id="it was seen once"),
    ],
)
def test_while_a_transaction_runs(prepare: Prepare) -> None:
    report, meter = examined(prepare, charge_s=0.0)
    assert set(asked(meter)) == {"/gw", "/metervalue", "/publickey"}
    assert report.results["api"] == Result(NOT_ASKED, RUNS, "", {"transaction": None})
    assert report.results["receipt"].state is NOT_ASKED
    assert report.exit_status == 0


def test_a_transaction_that_begins_in_between() -> None:
    """It begins when /transaction was asked below v1: below v2 it is not asked any more."""
    report, meter = examined(acting(only_set_up(), "/transaction", 1, "B"))
    assert asked(meter).count("/transaction") == 1
    assert report.results["receipt"].text == RUNS


# --- no meter ---------------------------------------------------------------------------------------------------------

HTML = answer(b"<html>router</html>", content_type="text/html", headers="Server: nginx\r\n")
STRANGERS = {
    "html": (HTML, "is not an IEM-DCR: GET /metervalue has status 200 and text/html, by nginx"),
    "other-json": (answer({"hello": 1}), "status 200 and application/json"),
    "redirect": (answer(b"", "302 Found", headers="Location: https://x/\r\n"), "a redirect to https://x/"),
    "not-found": (answer(b"", "404 Not Found"), "status 404"),
    "silent": (Do(then=Then.STALL), "accepts the connection and sends nothing"),
    "closing": (Do(then=Then.CLOSE), "closes it without an answer"),
    "not-http": (Do(b"\x15\x03\x01\x00\x02\x02\x46", Then.CLOSE), "does not speak HTTP"),
}


@pytest.mark.parametrize(("does", "words"), STRANGERS.values(), ids=STRANGERS)
@virtual
async def test_what_is_no_meter(does: Do, words: str) -> None:
    async with RawServer([does] * 9) as server:
        report = await doctor.examine("127.0.0.1", server.port, wall=VirtualWall(), proxies=("http_proxy",))
    assert (report.exit_status, report.is_meter, list(report.results)) == (1, False, ["reachable"])
    assert words in report.results["reachable"].text
    assert "http_proxy is set here" in report.results["reachable"].to_do


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (OSError(errno.ECONNREFUSED, ""), "the connection is refused"),
        (OSError(errno.EHOSTUNREACH, ""), "no route to this address"),
        (TimeoutError(), "nothing at this address answers"),
        (socket.gaierror(), "cannot resolve that name"),
        (OSError(errno.EIO, ""), "GET /metervalue: not reachable"),
    ],
)
def test_what_is_not_reachable(cause: OSError, words: str) -> None:
    error = MeterUnreachableError("m:80", "GET /metervalue", "not reachable")
    error.__cause__ = cause
    report = doctor.judge(Evidence("m:80", failures=[error]))
    assert words in report.results["reachable"].text
    assert report.exit_status == 1


@virtual
async def test_a_meter_that_is_slow_ends_within_a_minute() -> None:
    """Every answer comes just before its time is up."""
    loop = asyncio.get_running_loop()
    meter = SimulatedMeter(meter_options(), monotonic=loop.time)
    set_up(meter)
    await sign(meter)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(3.9)
        told = meter.handle("GET", head.decode().split(" ")[1])
        writer.write(answer(told.body, f"{told.status} X", headers="Connection: close\r\n").send)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        began_s = loop.time()
        report = await doctor.examine("127.0.0.1", server.sockets[0].getsockname()[1], wall=VirtualWall())
        assert 30 < loop.time() - began_s <= AT_MOST_S
        await asyncio.sleep(5)
    assert report.results["reachable"].state is FAILED
    assert report.results["receipt"].text.startswith("T1 is valid")


# --- whatever comes ---------------------------------------------------------------------------------------------------

BODIES = st.one_of(
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(sorted(FIELDS)), json_values, max_size=4).map(
        lambda changes: json.dumps({"CT": "EVSEID", "CI": "A", "SA": "", "PK": "04"} | FIELDS | changes).encode()
    ),
    st.text(max_size=20).map(lambda text: f'OCMF|{{"PG":"T1"}}|{{"SD":{json.dumps(text)}}}'.encode()),
    st.binary(max_size=20),
)


@settings(suppress_health_check=list(HealthCheck))
@given(st.lists(BODIES, min_size=5, max_size=5), st.sampled_from([200, 200, 200, 404, 428, 500, 302]))
def test_arbitrary_answers(bodies: list[bytes], status: int) -> None:
    """Whatever a node answers: no exception, and one of the exit statuses."""
    answers = dict.fromkeys((node.path for node in nodes.ALL), RecordedAnswer(status, (), bodies[-1]))
    always = (node.path for node in nodes.ALL if node.always)
    answers |= {path: RecordedAnswer(200, (), body) for path, body in zip(always, bodies, strict=False)}

    async def main() -> Report:
        async with RecordedMeter(Recording(WALL_AT, answers, {})) as meter:
            return await doctor.examine("127.0.0.1", meter.port, Settings.of(), wall=VirtualWall())

    report = run_virtual(main())
    assert report.exit_status in (0, 1)
    json.dumps(report.to_json(), allow_nan=False)
    assert all(line.plain.isprintable() for line in lines(report))
