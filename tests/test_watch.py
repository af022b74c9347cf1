"""iem-dcr watch: what is seen of meters beside whoever drives them, how it is drawn, and that it only asks."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from math import nan
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from iem_dcr.cli.output import Output
from iem_dcr.cli.watch import LineView, json_line
from iem_dcr.cli.watch_view import Chart, Picture, plain_line
from iem_dcr.diagnostics.status import Sample, Status
from iem_dcr.diagnostics.watching import WatchedMeter, watch
from iem_dcr.simulator import Fault, SimulatedMeter, SimulatorServer
from scripts import terminal_picture
from tests.support.bench import CI, meter_options
from tests.support.command_line import Simulator, begin, finish, read_until, run
from tests.support.snapshots import assert_snapshot
from tests.support.terminal import Terminal, without_escapes
from tests.support.virtual_time import VirtualWall, run_virtual, virtual

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


BASE = "/counter/v1/ocmf"
MAY_BE_ASKED = {("GET", f"{BASE}/gw"), ("GET", f"{BASE}/metervalue"), ("GET", f"{BASE}/publickey")}


def post(meter: SimulatedMeter, node: str, body: dict[str, Any]) -> None:
    assert meter.handle("POST", BASE + node, json.dumps(body).encode()).status == 200
    meter.requests.pop()


def set_up(meter: SimulatedMeter) -> None:
    post(meter, "/gw", {"CT": "EVSEID", "CI": CI, "TM": "2026-03-01T13:00:00,000+0100"})


def named(text: str) -> str:
    """Give every port of this host the same name, of the same length."""
    return re.sub(r"(127\.0\S*:)\d{5}", r"\1PORT_", text)


def drawn(picture: Picture, width: int = 100, height: int = 30) -> str:
    """Draw a picture as a terminal without colours would show it."""
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(picture)
    return named("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


class Scene:
    """Simulated meters that are watched under virtual time; ``meter`` is the first."""

    def __init__(self) -> None:
        self.wall = VirtualWall()
        self.servers: list[SimulatorServer] = []
        self.watched: list[WatchedMeter] = []

    @property
    def meter(self) -> SimulatedMeter:
        return self.servers[0].meter

    def picture(self) -> Picture:
        return Picture(tuple(meter.status() for meter in self.watched), self.wall())

    def status(self) -> Status:
        return self.watched[0].status()


@asynccontextmanager
async def watching(
    *options: dict[str, Any], on_poll: Callable[[WatchedMeter], None] = lambda _: None
) -> AsyncIterator[Scene]:
    """Watch meters; none of them gets anything but the GETs that are always allowed."""
    scene = Scene()
    async with AsyncExitStack() as stack:
        for of in options or ({},):
            server = await stack.enter_async_context(SimulatorServer(meter_options(**({"charge_s": 60.0} | of))))
            scene.servers.append(server)
            scene.watched.append(WatchedMeter(server.host, server.port, scene.wall))
            set_up(server.meter)
        polls = asyncio.create_task(watch(scene.watched, on_poll))
        yield scene
        polls.cancel()
        await asyncio.gather(polls, return_exceptions=True)
    for server in scene.servers:
        assert {(got.method, f"{BASE}{got.node}") for got in server.meter.requests} <= MAY_BE_ASKED


# --- what is seen -----------------------------------------------------------------------------------------------------


@virtual
async def test_a_transaction() -> None:
    async with watching() as scene:
        await asyncio.sleep(9.5)
        post(scene.meter, "/receipt", {"TX": "B"})
        await asyncio.sleep(20.5)
        late = WatchedMeter(scene.servers[0].host, scene.servers[0].port, scene.wall)
        await late.poll()
        assert "Transaction runs, seen since 12:00:30, charged 0." in drawn(Picture((late.status(),), scene.wall()))
        await asyncio.sleep(29.5)
        pictures = [drawn(scene.picture(), width) for width in (100, 64, 34)]
        assert_snapshot("watch-charging.txt", "\n".join([*pictures, named(plain_line(scene.status())) + "\n"]))


@virtual
async def test_transactions_one_after_the_other() -> None:
    async with watching() as scene:
        await asyncio.sleep(2.5)
        seen: list[Any] = []
        for seconds in (10.0, 3.5):
            post(scene.meter, "/receipt", {"TX": "B"})
            await asyncio.sleep(seconds)
            seen.append(scene.status().transaction)
            scene.meter.clear_load()
            post(scene.meter, "/receipt", {"TX": "E"})
            await asyncio.sleep(0.3)
        await asyncio.sleep(2.0)
        assert scene.status().transaction is None
    first, second = seen
    assert first.begin_seen
    assert second.since > first.since, "one that began between two looks is another one"
    assert 0 < second.charged_wh < first.charged_wh


@virtual
async def test_a_power_cut() -> None:
    async with watching() as scene:
        await asyncio.sleep(4.5)
        scene.meter.power_cycle(off_s=20.0, boot_s=5.0)
        await asyncio.sleep(20.0)
        dark = drawn(scene.picture(), 80)
        assert json.loads(json_line(scene.status()))["metervalue"] is None
        await asyncio.sleep(10.0)
        assert_snapshot("watch-power-cut.txt", f"{dark}\n{drawn(scene.picture(), 80)}")


@virtual
async def test_a_meter_that_hangs_holds_up_no_other() -> None:
    async with watching({}, {"MS": "1SIM2"}) as scene:
        scene.servers[1].meter.faults.add(Fault("stall", node="/metervalue", count=100))
        await asyncio.sleep(30.0)
        well, hangs = [meter.status() for meter in scene.watched]
    assert len(well.samples) >= 28
    assert well.age_s is not None
    assert well.age_s <= 1.0
    assert hangs.value is None
    assert hangs.silent_s is not None
    assert hangs.silent_s > 28.0
    assert "no answer within 1.9 s" in hangs.problem


@virtual
async def test_what_is_wrong() -> None:
    async with watching({"XC": "0x0000, 0x00000100, 0x00, 0x00", "EF": "E", "ST": "F"}) as scene:
        scene.meter.shift_clock(-95.0)
        scene.meter.faults.add(Fault("garbage", node="/publickey", count=99))
        await asyncio.sleep(3.5)
        text = drawn(scene.picture(), 80) + named(plain_line(scene.status())) + "\n"
        assert_snapshot("watch-what-is-wrong.txt", text)


@virtual
async def test_another_meter_at_the_address() -> None:
    async with SimulatorServer(meter_options(MS="1SIM1")) as server:
        set_up(server.meter)
        meter = WatchedMeter(server.host, server.port, VirtualWall())
        await watch([meter], lambda _: None, count=5)
        before = meter.status()
    async with SimulatorServer(meter_options(MS="1SIM2"), port=server.port):
        await watch([meter], lambda _: None, count=2)
        after = meter.status()
    assert [
        (status.value and status.value.MS, len(status.samples), status.gateway and status.gateway.is_set)
        for status in (before, after)
    ] == [("1SIM1", 5, True), ("1SIM2", 2, False)]


# --- how it is drawn --------------------------------------------------------------------------------------------------


@virtual
async def test_many_meters() -> None:
    async with watching(*({"MS": f"1SIM{number}"} for number in range(8))) as scene:
        await asyncio.sleep(3.5)
        post(scene.servers[1].meter, "/receipt", {"TX": "B"})
        scene.servers[7].meter.power_cycle(off_s=60.0, boot_s=1.0)
        await asyncio.sleep(30.0)
        pictures = [drawn(scene.picture(), width, height) for width, height in ((100, 24), (60, 24), (30, 6))]
        pictures.append(drawn(replace(scene.picture(), stays=True), 30, 6))
        assert_snapshot("watch-many.txt", "\n".join(pictures))


@pytest.fixture(scope="module")
def three() -> Picture:
    """Three meters, one of them silent, one with texts that are made to do harm."""

    async def story() -> Picture:
        async with watching({}, {}, {}) as scene:
            scene.servers[2].meter.power_cycle(off_s=60.0, boot_s=1.0)
            await asyncio.sleep(20.0)
            return scene.picture()

    told: Picture = run_virtual(story())
    hostile = told.statuses[0]
    assert hostile.value is not None
    value = replace(hostile.value, MS="\x1b[31m漢字\u202e" + "W" * 80, ST="\n\x1b[2J")
    return replace(told, statuses=(replace(hostile, value=value), *told.statuses[1:]))


@pytest.mark.parametrize("width", [1, 9, 33, 76, 300])
def test_it_fits_into_every_window(width: int, three: Picture) -> None:
    for height in (1, 3, 9, 40):
        text = drawn(three, width, height)
        assert len(text.splitlines()) <= max(height, 3), "a window of less than three lines is none"
        assert all(cell_len(line) <= width for line in text.splitlines())
        assert not {"\x1b", "\u202e"} & set(text)


@pytest.mark.parametrize(("chart", "name", "least_span", "shown"), [
    (Chart(8, 1), "power_w", 0.0, ("▁▂▃▄▅▆▇█", 0.0, 7.0)),
    (Chart(6, 2), "power_w", 0.0, ("  ▁▃▆█", 0.0, 7.0)),
    (Chart(10, 1), "voltage_v", 10.0, ("  ▁▁▁▁▁▁▁▁", 400.0, 400.0)),
    (Chart(8, 1), "current_a", 0.0, ("▆▅▄▃▃▂▁▁", -11.0, -4.0)),
])  # fmt: skip
def test_bars_of_known_values(chart: Chart, name: str, least_span: float, shown: tuple[str, float, float]) -> None:
    samples = tuple(Sample(float(second), float(second), 400.0, -4.0 - second) for second in range(8))
    samples = (Sample(-1e9, 1e9, 1e9, 1e9), *samples, Sample(7.4, nan, nan, nan))
    assert chart.draw(Status("a:1", 7.5, samples=samples), name, least_span=least_span) == shown


# --- lines and JSON ---------------------------------------------------------------------------------------------------


@virtual
async def test_lines_for_a_pipe() -> None:
    written = io.StringIO()
    view = LineView(Output(written), plain_line, repeats_after_s=60.0)
    async with watching(on_poll=view.on_poll) as scene:
        await asyncio.sleep(1.5)
        post(scene.meter, "/receipt", {"TX": "B"})
        await asyncio.sleep(2.0)
        scene.meter.power_cycle(off_s=125.0, boot_s=0.0)
        await asyncio.sleep(128.0)
    assert_snapshot("watch-lines.txt", named(written.getvalue()))
    assert re.findall(r"no answer since \S+ \((.*?)\)", written.getvalue()) == ["0 s", "1 min 00 s", "2 min 00 s"]


def test_json() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        done = run("watch", simulator.address, "127.0.0.1:9", "--json", "--count", "2")
        assert simulator.methods == {"GET"}
    assert (done.status, done.err) == (0, "")
    good = [told for told in done.events if told["address"] == simulator.address]
    bad = [told for told in done.events if told["address"] == "127.0.0.1:9"]
    assert [told["no_answer_since"] for told in good] == [None, None]
    assert good[1]["metervalue"]["MS"] == "1SIM0000000042"
    assert good[1]["gw"] == {"CT": "EVSEID", "CI": CI}
    assert good[1]["read_at"].endswith("Z")
    assert 0 <= good[1]["age_s"] < 1
    assert [told["metervalue"] for told in bad] == [None, None]
    assert bad[1]["no_answer_for_s"] > 0
    assert "Connection refused" in bad[1]["troubles"][0]["text"]


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_meters_of_a_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    with Simulator() as one, Simulator(MS="1SIM2") as two:
        ports = [meter.address.partition(":")[2] for meter in (one, two)]
        meters = "[[meter]]\nmodule_id = 'pm{0}'\nip_address = '127.0.0.1'\nport_http = {0}\nCI = 'A'\n"
        file.write_text("".join(map(meters.format, ports)))
        done = run("watch", one.address, "--config", str(file), "--count", "1")
    assert done.status == 0
    assert sorted(line.split()[1] for line in done.out.splitlines()) == sorted([one.address, two.address])
    file.write_text("[[meter]]\nport_htp = 9\n")
    done = run("watch", "--config", str(file))
    assert (done.status, done.out) == (2, "")
    assert "did you mean port_http?" in done.err


@pytest.mark.parametrize(("asked", "status"), [((), 0), (("--seconds", "600"), 130)])
def test_interrupted(asked: tuple[str, ...], status: int) -> None:
    with Simulator() as simulator:
        process = begin("watch", simulator.address, *asked)
        before = read_until(process, simulator.address)
        process.send_signal(signal.SIGTERM)
        done = finish(process, before)
    assert done.status == status
    assert ("Interrupted: the meters were watched for less time" in done.err) == (status == 130)


def test_on_a_terminal() -> None:
    with Simulator() as simulator:
        simulator.set_up()
        terminal = Terminal("watch", simulator.address)
        terminal.until("Ctrl-C ends")
        terminal.resize(40, 20)
        terminal.until("1 meter, 0 charging")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 0
        assert simulator.methods == {"GET"}
    shown, _, left = terminal.written.rpartition("\x1b[?1049l")
    assert shown.count("\x1b[?1049h") == 1, "it has a screen of its own"
    assert "\x1b[?25h" in terminal.written[shown.rindex("\x1b[?25l") :], "the cursor is shown again"
    text = without_escapes(left)
    assert simulator.address in text, "the last picture stays behind"
    assert "Ctrl-C" not in text
    assert all(cell_len(line) <= 40 for line in text.splitlines())
    assert "Traceback" not in terminal.written


def test_a_dumb_terminal_gets_lines_and_exit_1_is_for_meters_that_never_answered() -> None:
    terminal = Terminal("watch", "127.0.0.1:9", "--count", "1", term="dumb")
    assert terminal.end() == 1
    assert "\x1b" not in terminal.written
    assert "  127.0.0.1:9  ! no answer since" in terminal.written
    assert "Error: meter 127.0.0.1:9, GET /metervalue: not reachable: Connection refused" in terminal.written


# --- the picture in the README ----------------------------------------------------------------------------------------


def test_the_picture_loads_nothing() -> None:
    committed = terminal_picture.PICTURE.read_text("utf-8")
    assert not re.findall(r"@font-face|@import|url\((?!#)|(?:href|src)=", committed)
    drawn_now = terminal_picture.svg(run_virtual(terminal_picture.scene()))
    assert drawn_now == committed, "make screenshots"
