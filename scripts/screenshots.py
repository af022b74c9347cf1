"""Takes the screenshots of the bring-up page for the documentation, docs/images/*.png.

A station of simulated meters runs for half an hour of virtual time, which takes some seconds. Then time passes
normally, and a headless Chromium takes screenshots of the real page.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import threading
import time
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import sync_playwright  # noqa: E402

from iem_dcr.config import Settings  # noqa: E402
from iem_dcr.service.observation import ObservedMeter  # noqa: E402
from iem_dcr.service.web_settings import WebSettings  # noqa: E402
from iem_dcr.simulator import SimulatorOptions  # noqa: E402
from iem_dcr.web.server import WebServer  # noqa: E402
from tests.support.bench import bench, request  # noqa: E402
from tests.support.virtual_time import VirtualTimeLoop, VirtualWall  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

FOLDER = ROOT / "docs" / "images"
LARGEST_BYTES = 150_000
SPAN_S = 31 * 60
"""Slightly more than the charts show."""
SHOTS = {
    "page-overview": ("/", {"width": 1120, "height": 490}, "light"),
    "page-meter": ("/meters/charger_1", {"width": 1120, "height": 1120}, "light"),
    "page-meter-dark": ("/meters/charger_1", {"width": 1120, "height": 1120}, "dark"),
    "page-phone": ("/meters/charger_1", {"width": 390, "height": 844}, "light"),
    "page-phone-overview": ("/", {"width": 390, "height": 960}, "dark"),
}


class Post:
    """One charge point of the station: a simulated meter and its driver."""

    def __init__(self, number: int, wall: VirtualWall) -> None:
        self.CI = f"DE*PNX*E10{number}"
        self._number = number
        self._wall = wall
        self._sessions = 0

    @contextlib.asynccontextmanager
    async def driven(self) -> AsyncIterator[ObservedMeter]:
        """Run the simulator and the driver inside the context."""
        options = SimulatorOptions(MS=f"1SIM00000000{40 + self._number}", private_key=0xC0FFEE + self._number)
        address = f"10.0.0.{10 + self._number}:80"
        observed = ObservedMeter(Settings.of({"CI": self.CI}), f"charger_{self._number}", address, self._wall)
        async with bench(options, wall=self._wall, sink=observed, observer=observed, CI=self.CI) as running:
            self.meter, self.driver = running.meter, running.driver
            observed.attach(self.driver)
            yield observed

    async def begin(self) -> str:
        """Begin a session and return its id."""
        self._sessions += 1
        transaction_id = f"{self._number}b1f0c52-7a31-4c0e-9d55-2f9b1c6e{self._sessions:04}"
        details = {"evse_id": self.CI, "identification_data": "04A2B3C4D5E6F7", "tariff_text": "0.49 EUR/kWh"}
        response = await self.driver.start_transaction(request(transaction_id, **details))
        if response.error:
            raise RuntimeError(response.error)
        return transaction_id

    async def end(self, transaction_id: str) -> None:
        response = await self.driver.stop_transaction(transaction_id)
        if response.error:
            raise RuntimeError(response.error)

    async def session(self, seconds: float) -> None:
        transaction_id = await self.begin()
        await asyncio.sleep(seconds)
        await self.end(transaction_id)


async def half_an_hour(posts: list[Post]) -> None:
    """Run the station's half hour."""
    one, two, three, four = posts
    ends_s = asyncio.get_running_loop().time() + SPAN_S
    await asyncio.sleep(20)

    async def first() -> None:
        one.meter.configure(charge_s=410.0, current_a=310.0, voltage_v=398.0)
        await one.session(430)
        await asyncio.sleep(140)
        one.meter.configure(charge_s=300.0, current_a=180.0, voltage_v=372.0)
        await one.session(310)
        await asyncio.sleep(95)
        one.meter.configure(charge_s=1500.0, current_a=345.0, voltage_v=412.0)
        await one.begin()

    async def second() -> None:
        two.meter.configure(charge_s=900.0, current_a=120.0, voltage_v=390.0)
        await asyncio.sleep(300)
        await two.session(920)

    async def third() -> None:
        await asyncio.sleep(700)
        three.meter.configure(charge_s=3000.0, current_a=200.0, voltage_v=810.0)
        await three.begin()

    async def fourth() -> None:
        await asyncio.sleep(1700)
        four.meter.configure(XC="0x0004, 0x00000000, 0x00, 0x00")

    await asyncio.gather(first(), second(), third(), fourth())
    await asyncio.sleep(ends_s - asyncio.get_running_loop().time())


def take_pictures(url: str, folder: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        for name, (path, size, scheme) in SHOTS.items():
            page = browser.new_page(viewport=size, color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            page.goto(url.rstrip("/") + path)
            page.get_by_text("Live", exact=True).wait_for()
            page.wait_for_timeout(300)
            file = folder / f"{name}.png"
            page.screenshot(path=file, scale="css")
            print(f"{file}: {file.stat().st_size} bytes")
            if file.stat().st_size > LARGEST_BYTES:
                sys.exit(f"{file} is larger than {LARGEST_BYTES} bytes")
            page.close()
        browser.close()


async def run(folder: Path) -> None:
    loop = cast("VirtualTimeLoop", asyncio.get_running_loop())
    wall = VirtualWall(datetime.now().astimezone() - timedelta(seconds=SPAN_S))
    posts = [Post(number, wall) for number in range(1, 5)]
    async with contextlib.AsyncExitStack() as stack:
        meters = [await stack.enter_async_context(post.driven()) for post in posts]
        await half_an_hour(posts)
        page = WebServer(WebSettings("127.0.0.1:0"), meters, lambda: "4 of 4 meters answer, broker connected")
        task = asyncio.create_task(page.run())
        await page.listening.wait()
        try:
            with time_passing(loop):
                await loop.run_in_executor(None, partial(take_pictures, page.url, folder))
        finally:
            task.cancel()
            await asyncio.wait({task})


@contextlib.contextmanager
def time_passing(loop: VirtualTimeLoop) -> Iterator[None]:
    """Let the loop's time, which otherwise stops while a thread works, pass normally."""
    began_s, real_s = loop.time(), time.monotonic()
    is_over = threading.Event()

    def set_time() -> None:
        loop._virtual.now_s = began_s + time.monotonic() - real_s  # noqa: SLF001  our own loop for such purposes

    def pass_time() -> None:
        while not is_over.wait(0.005):
            loop.call_soon_threadsafe(set_time)

    thread = threading.Thread(target=pass_time)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder for the screenshots")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run(folder))


if __name__ == "__main__":
    main()
