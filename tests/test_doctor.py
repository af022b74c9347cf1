"""iem-dcr doctor: what it says of the faults an installer meets, and that it only asks."""

from __future__ import annotations

import asyncio
import io
import json
import re
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
from iem_dcr.diagnostics.report import Report, Result, State
from iem_dcr.diagnostics.snapshot import TimedValue
from iem_dcr.simulator import Fault, SimulatedMeter, SimulatorOptions, SimulatorServer
from tests.support.any_json import json_values
from tests.support.bench import CI, SECRET, SERIAL, meter_options
from tests.support.command_line import Simulator, run
from tests.support.raw_server import Do, RawServer, Then, answer
from tests.support.recorded import FIRMWARE, RecordedAnswer, RecordedMeter, Recording
from tests.support.snapshots import assert_snapshot
from tests.support.virtual_time import VirtualWall, run_virtual, virtual

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WALL_AT = VirtualWall().offset
BASE = "/counter/v1/ocmf"
ALWAYS_NODES = {"/gw", "/metervalue", "/publickey"}
AT_MOST_S = 60.0


def post(meter: SimulatedMeter, node: str, body: dict[str, Any]) -> None:
    assert meter.handle("POST", BASE + node, json.dumps(body).encode()).status == 200
    meter.requests.pop()


def set_up(meter: SimulatedMeter, *, off: timedelta = timedelta(0), ci: str = CI) -> None:
    """Give it a charge point, and a clock that is so far off."""
    time = (WALL_AT + timedelta(hours=1) + off).replace(tzinfo=None).isoformat(timespec="milliseconds")
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


def normal(report: Report) -> str:
    """Write a report as it is shown, without what is another at every run."""
    text = "".join(f"{line.plain}\n" for line in lines(report))
    text = text.replace(report.address, "ADDRESS")
    text = re.sub(r"in \d+ ms (\(.*\)), \d+ ms at worst", r"in N ms \1, N ms at worst", text)
    return re.sub(r"over \d\.\d s", "over 3.0 s", re.sub(r"[0-4]\.\d s (ahead of|behind)", "0.0 s behind", text))


def examined(
    before: Callable[[SimulatedMeter], Any] = nothing,
    settings: Settings | None = None,
    proxies: tuple[str, ...] = (),
    **options: Any,
) -> tuple[Report, SimulatedMeter]:
    """Examine a simulated meter under virtual time; see that it got GETs alone."""

    async def main() -> tuple[Report, SimulatedMeter]:
        chosen = {"charge_s": 0.2, "signature_encoding": "der"} | options
        async with SimulatorServer(meter_options(**chosen)) as server:
            await before(server.meter)
            began_s = asyncio.get_running_loop().time()
            report = await doctor.examine(server.host, server.port, settings, proxies=proxies, wall=VirtualWall())
            assert asyncio.get_running_loop().time() - began_s <= AT_MOST_S
            assert {request.method for request in server.meter.requests} <= {"GET"}
            return report, server.meter

    return run_virtual(main())


def of(report: Report, check: str) -> Result:
    return report.results[check]


async def ready(meter: SimulatedMeter) -> None:
    set_up(meter)
    await sign(meter)


def with_fault(**fields: Any) -> Callable[[SimulatedMeter], Any]:
    async def before(meter: SimulatedMeter) -> None:
        await ready(meter)
        meter.faults.add(Fault(**({"count": 99} | fields)))

    return before


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_a_meter_in_order() -> None:
    report, _ = examined(ready, Settings.of({"CI": CI, "meter_serial": "1SIM0000000042"}))
    assert_snapshot("doctor-in-order.txt", normal(report))
    assert report.exit_status == 0


def test_a_meter_just_powered_up() -> None:
    report, _ = examined()
    assert_snapshot("doctor-powered-up.txt", normal(report))
    assert report.exit_status == 0


def test_a_meter_with_everything_wrong() -> None:
    async def before(meter: SimulatedMeter) -> None:
        set_up(meter, off=timedelta(hours=1), ci="DE*OLD*E9")
        await sign(meter)
        meter.set_load(-125.0, 400.0)
        meter.faults.add(Fault("garbage", node="/publickey", count=9))

    report, _ = examined(
        before,
        Settings.of({"CI": CI, "meter_serial": "1ISA1"}),
        XC="0x0000, 0x00000100, 0x00, 0x00",
        ST="F",
        keep_alive="close",
    )
    assert_snapshot("doctor-all-wrong.txt", normal(report))
    assert report.exit_status == 1


def test_json() -> None:
    with Simulator() as simulator:
        done = run("doctor", simulator.address, "--json")
        (told,) = done.events
        assert simulator.methods == {"GET"}
    assert (done.status, done.err) == (0, "")
    assert (told["is_meter"], told["exit_status"], told["address"]) == (True, 0, simulator.address)
    assert [one["check"] for one in told["checks"]] == list(CHECKS)
    assert [one["number"] for one in told["checks"]] == list(range(1, len(CHECKS) + 1))
    assert {one["state"] for one in told["checks"]} == {"ok", "warning"}
    assert told["checks"][0]["values"].keys() == {"asked", "answered", "median_s", "worst_s"}


# --- the configuration ------------------------------------------------------------------------------------------------


def test_configuration_files(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text("[[meter]]\nip_address = '127.0.0.1'\nport_http = 9\nmodule_id = 'a'\n[[meter]]\nmodule_id = 'b'\n")
    done = run("doctor", "127.0.0.1:8", "--config", str(file))
    assert (done.status, done.out) == (2, "")
    assert "has 2 meters and none at 127.0.0.1:8: 127.0.0.1:9, 192.168.60.12:80" in done.err
    file.write_text(
        "[mqtt]\npassword_file = 'not-here'\n[[meter]]\nip_address = '127.0.0.1'\nport_http = 9\nCI = 'A'\n"
    )
    done = run("doctor", "127.0.0.1:9", "--config", str(file))
    assert done.status == 1
    assert "the connection is refused" in done.out
    file.write_text("[[meter]]\nport_htp = 9\n")
    done = run("doctor", "127.0.0.1:9", "--config", str(file))
    assert (done.status, done.out) == (2, "")
    assert "did you mean port_http?" in done.err


async def with_vendor_ci(meter: SimulatedMeter) -> None:
    set_up(meter, ci="1234")


@pytest.mark.parametrize(
    ("before", "configured", "state", "words"),
    [
        (with_vendor_ci, None, State.FAILED, "is frozen in this meter until its power is switched off and on"),
        (with_vendor_ci, "1234", State.FAILED, "is frozen in this meter"),
        (with_vendor_ci, "DE*NEW*E1", State.FAILED, "is frozen in this meter"),
        (nothing, "1234", State.FAILED, "freezes it into this meter the next time it is started"),
        (ready, "1234", State.FAILED, "freezes it into this meter after the meter's next power cycle"),
        (ready, CI, State.OK, ""),
        (ready, None, State.OK, ""),
    ],
)
def test_the_default_of_the_vendor_is_the_first_that_is_said(
    before: Callable[[SimulatedMeter], Any], configured: str | None, state: State, words: str
) -> None:
    report, _ = examined(before, None if configured is None else Settings.of({"CI": configured}))
    assert of(report, "gateway").state is state
    first = next(lines(report)).plain
    assert first.startswith("Error: CI 1234, " if words else "Meter at")
    assert words in first
    assert ("Set CI to the evse_id of EvseManager" in first) is bool(words)
    assert report.to_json()["errors"] == [first.removeprefix("Error: ")] * bool(words)


# --- what is measured -------------------------------------------------------------------------------------------------


def load(current_a: float, voltage_v: float) -> Callable[[SimulatedMeter], Any]:
    async def before(meter: SimulatedMeter) -> None:
        await ready(meter)
        meter.set_load(current_a, voltage_v)

    return before


def test_current() -> None:
    report, _ = examined(load(125.0, 400.0))
    assert of(report, "reading").state is State.OK
    assert of(report, "register").state is State.OK
    grown = of(report, "register").values["import_grew_wh"]
    assert isinstance(grown, float)
    assert grown > 30


def value_of(**changes: Any) -> messages.MeterValue:
    fields: dict[str, Any] = {
        "MS": "1SIM1", "TM": "2026-03-01T13:00:00,000+0100 I", "EF": "", "ST": "G", "XT": False, "XS": "0x1",
        "XC": "0x0", "U2": 400, "I": 100, "P": 40000,
        "RD": [{"RV": "1.000", "RI": "1-b:1.8.e", "RU": "kWh"}, {"RV": "0.000", "RI": "1-b:2.8.e", "RU": "kWh"}],
    }  # fmt: skip
    return messages.meter_value(messages.decode(json.dumps(fields | changes).encode()))


def judged(*values: messages.MeterValue) -> Report:
    """Judge values that were read a second apart."""
    timed = [TimedValue(value, float(at), 0.01, WALL_AT) for at, value in enumerate(values)]
    return doctor.judge(Evidence("m:80", values=timed))


def row(kwh: str, code: str = "1-b:1.8.e") -> dict[str, str]:
    return {"RV": kwh, "RI": code, "RU": "kWh"}


@pytest.mark.parametrize(
    ("check", "values", "state", "words"),
    [
        ("reading", [{"P": 20000}], State.FAILED, "U2·I is 40000 W"),
        ("reading", [{"P": -40000}], State.FAILED, "P has the opposite sign"),
        ("reading", [{"U2": -400, "P": -40000}], State.FAILED, "the voltage is negative"),
        ("reading", [{"P": 20000}, {}], State.OK, "1 of 2 readings"),
        ("reading", [{"U2": 60.1, "I": 5, "P": 300}], State.OK, ""),
        ("register", [{"RD": [row("2.000")]}, {"RD": [row("1.999")]}], State.FAILED, "a register fell"),
        ("register", [{}, {}, {}, {}], State.FAILED, "none of about 33 Wh was counted"),
        ("register", [{"P": 0, "RD": [row("1"), row("2", "1-b:2.8.e")]}], State.WARNING, "more was exported"),
        ("clock", [{}, {}, {}, {}], State.FAILED, "it stands still"),
        ("serial", [{}, {"MS": "1SIM2"}], State.FAILED, "two meters"),
        ("status", [{"EF": "E"}], State.FAILED, ""),
        ("status", [{"EF": "?"}], State.WARNING, ""),
        ("errors", [{"XC": "0x0, 0x1"}], State.FAILED, ""),
    ],
)
def test_values(check: str, values: list[dict[str, Any]], state: State, words: str) -> None:
    line = of(judged(*(value_of(**changes) for changes in values)), check)
    assert (line.state, words in line.text) == (state, True), line.text


# --- what each check says ---------------------------------------------------------------------------------------------


def clock_off(**off: float) -> Callable[[SimulatedMeter], Any]:
    async def before(meter: SimulatedMeter) -> None:
        set_up(meter, off=timedelta(**off))

    return before


def changed(**options: Any) -> Callable[[SimulatedMeter], Any]:
    """Let a meter that has signed a receipt become another."""

    async def before(meter: SimulatedMeter) -> None:
        await ready(meter)
        meter.configure(**options)

    return before


OK, WARNING, FAILED = State.OK, State.WARNING, State.FAILED


@pytest.mark.parametrize(("check", "before", "options", "state", "words"), [
    ("gateway", ready, {"configured": {"CI": "DE*NEW*E1"}}, FAILED, "powered off and on"),
    ("serial", ready, {"configured": {"meter_serial": "1ISA0000000001"}}, FAILED, "set meter_serial"),
    ("serial", ready, {"configured": {"meter_serial": "pin"}}, OK, SERIAL),
    ("clock", clock_off(), {}, OK, "sync flag I"),
    ("clock", clock_off(seconds=20), {}, WARNING, "it is wrong"),
    ("clock", clock_off(minutes=-10), {}, FAILED, "it is wrong"),
    ("clock", clock_off(hours=-1), {}, FAILED, "1 h to the second: a wrong time zone or summer time"),
    ("clock", clock_off(hours=2), {}, FAILED, "2 h to the second"),
    ("clock", clock_off(days=-20500), {}, WARNING, "it shows 1970-01"),
    ("clock", ready, {"configured": {"timezone": "+0300"}}, WARNING,
     "offset from UTC is +0100, but the configuration has +0300 now"),
    ("clock", ready, {"sync_flag": False}, WARNING, "no flag"),
    ("reading", load(-125.0, 400.0), {}, WARNING, "wrong way round"),
    ("key", ready, {"public_key_form": "raw"}, OK, "X‖Y as hex"),
    ("api", nothing, {}, WARNING, "not known without a receipt"),
    ("api", ready, {"firmware": "v1"}, OK, "below v1"),
    ("api", ready, {"firmware": "v2"}, OK, "below v2"),
    ("receipt", nothing, {}, WARNING, "signed nothing yet"),
    ("receipt", ready, {"signature_encoding": "raw"}, WARNING, "valid; found: signature-form"),
    ("receipt", ready, {"ST": "M"}, FAILED, "the transparency software refuses it; found: status-not-good"),
    ("receipt", changed(MS=SERIAL, private_key=SECRET + 1), {}, FAILED, "NOT VALID"),
    ("receipt", changed(MS="1SIM0000000043"), {}, FAILED, "is from meter 1SIM0000000042"),
])  # fmt: skip
def test_a_check(
    check: str, before: Callable[[SimulatedMeter], Any], options: dict[str, Any], state: State, words: str
) -> None:
    chosen = dict(options)
    settings = Settings.of({"CI": CI} | chosen.pop("configured")) if "configured" in chosen else None
    result = of(examined(before, settings, **chosen)[0], check)
    assert (result.state, words in f"{result.text} {result.to_do}") == (state, True), result


@pytest.mark.parametrize("kind", ["garbage", "server-error", "lose-answer", "stall"])
@pytest.mark.parametrize("node", ["/publickey", "/gw", "/transaction"])
def test_a_node_that_fails(node: str, kind: str) -> None:
    report, _ = examined(with_fault(kind=kind, node=node))
    assert report.exit_status == (0 if (node, kind) == ("/transaction", "garbage") else 1)
    assert report.is_meter


# --- while a transaction runs -----------------------------------------------------------------------------------------


def paths(meter: SimulatedMeter) -> set[str]:
    return {request.node for request in meter.requests}


def test_while_a_transaction_runs() -> None:
    async def before(meter: SimulatedMeter) -> None:
        await ready(meter)
        post(meter, "/receipt", {"TX": "B"})

    report, meter = examined(before, charge_s=0.0)
    assert paths(meter) == ALWAYS_NODES
    assert of(report, "api") == Result(State.NOT_ASKED, "not asked while a transaction runs", "", {"transaction": None})
    assert of(report, "receipt").state is State.NOT_ASKED
    assert report.exit_status == 0


def test_a_transaction_that_begins_in_between() -> None:
    """It begins when /transaction was asked below v1: below v2 it is not asked any more."""

    async def before(meter: SimulatedMeter) -> None:
        set_up(meter)
        handle = meter.handle

        def watched(method: str, path: str, body: bytes = b"") -> Any:
            told = handle(method, path, body)
            if path == nodes.TRANSACTION_V1.path:
                handle("POST", f"{BASE}/receipt", b'{"TX":"B"}')
                meter.requests.pop()
            return told

        meter.handle = watched  # type: ignore[method-assign]

    report, meter = examined(before)
    asked = [request.node for request in meter.requests]
    assert asked.count("/transaction") == 1
    assert of(report, "receipt").text == "not asked while a transaction runs"


def test_a_transaction_that_was_seen_once_is_believed() -> None:
    """XT is false after the last live value, which may be a glitch."""

    async def before(meter: SimulatedMeter) -> None:
        await ready(meter)
        post(meter, "/receipt", {"TX": "B"})
        handle = meter.handle

        def watched(method: str, path: str, body: bytes = b"") -> Any:
            if [request.node for request in meter.requests].count("/metervalue") == 7:
                meter.clear_load()
                handle("POST", f"{BASE}/receipt", b'{"TX":"E"}')
                meter.requests.pop()
            return handle(method, path, body)

        meter.handle = watched  # type: ignore[method-assign]

    report, meter = examined(before, charge_s=0.0)
    assert paths(meter) == ALWAYS_NODES
    assert of(report, "receipt").text == "not asked while a transaction runs"


# --- no meter ---------------------------------------------------------------------------------------------------------


async def of_server(script: list[Do]) -> Report:
    async with RawServer(script) as server:
        return await doctor.examine("127.0.0.1", server.port, wall=VirtualWall(), proxies=("http_proxy",))


HTML = answer(b"<html>router</html>", content_type="text/html", headers="Server: nginx\r\n")
STRANGERS = {
    "html": ([HTML] * 9, "is not an IEM-DCR: GET /metervalue has status 200 and text/html, by nginx"),
    "other-json": ([answer({"hello": 1})] * 9, "status 200 and application/json"),
    "redirect": ([answer(b"", "302 Found", headers="Location: https://x/\r\n")] * 9, "a redirect to https://x/"),
    "not-found": ([answer(b"", "404 Not Found")] * 9, "status 404"),
    "silent": ([Do(then=Then.STALL)] * 9, "accepts the connection and sends nothing"),
    "closing": ([Do(then=Then.CLOSE)] * 9, "closes it without an answer"),
    "not-http": ([Do(b"\x15\x03\x01\x00\x02\x02\x46", Then.CLOSE)] * 9, "does not speak HTTP"),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_what_is_no_meter(what: str) -> None:
    script, words = STRANGERS[what]
    report = run_virtual(of_server(script))
    assert (report.exit_status, report.is_meter, list(report.results)) == (1, False, ["reachable"])
    assert words in of(report, "reachable").text
    assert "http_proxy is set here" in of(report, "reachable").to_do


def test_a_closed_port() -> None:
    with Simulator() as simulator:
        address = simulator.address
    done = run("doctor", address)
    assert (done.status, done.err) == (1, "")
    assert "the connection is refused" in done.out
    done = run("doctor", "http://127.0.0.1")
    assert (done.status, done.out) == (2, "")


@virtual
async def test_a_meter_that_is_slow_ends_within_a_minute() -> None:
    """Every answer comes just before its time is up."""
    meter = SimulatedMeter(SimulatorOptions(MS=SERIAL, private_key=SECRET), monotonic=asyncio.get_running_loop().time)
    set_up(meter)
    await sign(meter)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(3.9)
        told = meter.handle("GET", head.decode().split(" ")[1])
        writer.write(answer(told.body, f"{told.status} X", headers="Connection: close\r\n").send)
        writer.close()

    loop = asyncio.get_running_loop()
    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        began_s = loop.time()
        report = await doctor.examine("127.0.0.1", server.sockets[0].getsockname()[1], wall=VirtualWall())
        assert 40 < loop.time() - began_s <= AT_MOST_S
        await asyncio.sleep(5)
    assert of(report, "reachable").state is State.FAILED
    assert of(report, "receipt").text.startswith("T1 is valid")


def test_a_meter_that_loses_answers() -> None:
    line = of(examined(with_fault(kind="lose-answer", node="/metervalue", count=1))[0], "reachable")
    assert line.state is State.FAILED
    assert "1 of 6 requests had no answer" in line.text


# --- recorded firmware ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(folder.name for folder in FIRMWARE.iterdir() if folder.is_dir()))
@virtual
async def test_recorded_firmware(name: str) -> None:
    recording = Recording.load(FIRMWARE / name)
    async with RecordedMeter(recording) as meter:
        report = await doctor.examine("127.0.0.1", meter.port, wall=VirtualWall(recording.at))
    assert all(request.startswith("GET ") for request in meter.requests)
    assert_snapshot(f"doctor-{name}.txt", normal(report))


# --- whatever comes ---------------------------------------------------------------------------------------------------

FIELDS = {
    "MS": "1SIM1", "TM": "2026-03-01T13:00:00,000+0100 I", "EF": "", "ST": "G", "XT": False, "XS": "0x1", "XC": "0x0",
    "U2": 400, "I": 0, "P": 0, "RD": [row("1.000")], "CT": "EVSEID", "CI": "A", "SA": "", "PK": "04",
}  # fmt: skip
BODIES = st.one_of(
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(sorted(FIELDS)), json_values, max_size=4).map(
        lambda changes: json.dumps(FIELDS | changes).encode()
    ),
    st.just(json.dumps(FIELDS).encode()),
    st.text(max_size=20).map(lambda text: f'OCMF|{{"PG":"T1"}}|{{"SD":{json.dumps(text)}}}'.encode()),
    st.binary(max_size=20),
)


@pytest.mark.parametrize("width", [1, 8, 20, 40, 50, 80, 200])
def test_no_terminal_is_too_narrow_for_a_word(width: int) -> None:
    written = io.StringIO()
    report = Report("127.0.0.1:80", is_meter=True, results={"errors": Result(State.FAILED, "a word " * 9, "do it")})
    show(report, Console(file=written, width=width, force_terminal=True, color_system=None), is_terminal=True)
    for word, count in (("failed", 2), ("Errors", 1), ("word", 9), ("->", 1), ("do", 1)):
        assert written.getvalue().count(word) == count


@settings(suppress_health_check=list(HealthCheck))
@given(st.lists(BODIES, min_size=5, max_size=5), st.sampled_from([200, 200, 200, 404, 428, 500, 302]))
def test_arbitrary_answers(bodies: list[bytes], status: int) -> None:
    """Whatever a node answers: no exception, and one of the three exit statuses."""
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
