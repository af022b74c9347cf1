"""The service with its bring-up page, on a loop in a thread of its own, with simulated meters for it to show."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from iem_dcr.config import Settings
from iem_dcr.everest_api.mqtt_settings import MqttSettings
from iem_dcr.powermeter import TransactionReq
from iem_dcr.service.config import MeterConfig, ServiceConfig
from iem_dcr.service.service import Service
from iem_dcr.service.web_settings import WebSettings
from iem_dcr.simulator import SimulatedMeter, SimulatorOptions, SimulatorServer
from tests.support.api_bench import start_payload
from tests.support.bench import CI, SECRET, SERIAL
from tests.support.service_site import FailingBus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from iem_dcr.driver import MeterDriver
    from iem_dcr.web.server import WebServer

T = TypeVar("T")

PATIENCE_S = 30.0


class PageSite:
    """A service with simulated meters and the page.

    Args:
        names: module_ids of the meters.
        web: how the page is served; at any port of loopback without it.
        options: of the simulated meters.
    """

    def __init__(self, *names: str, web: WebSettings | None = None, **options: Any) -> None:
        self._names = names
        self._web = web or WebSettings("127.0.0.1:0")
        self._options: dict[str, Any] = {"MS": SERIAL, "private_key": SECRET, "signing_delay_s": 0.02} | options
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))
        self._meters: list[SimulatedMeter] = []
        self._configs: list[MeterConfig] = []
        self._service: Service | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def _page(self) -> WebServer:
        assert self._service is not None
        assert self._service.page is not None
        return self._service.page

    @property
    def url(self) -> str:
        """Where the page is, without a slash behind."""
        return self._page.url.rstrip("/")

    def start(self) -> None:
        """Start the service; again at the same port."""

        async def start() -> None:
            config = ServiceConfig(MqttSettings(), tuple(self._configs), self._web)
            self._service = Service(config, broker=FailingBus())
            self._task = asyncio.create_task(self._service.run())
            await self._page.listening.wait()
            self._web = replace(self._web, listen=f"{self._web.host}:{self._page.port}")

        self._do(start())

    def stop(self) -> None:
        """Stop the service; the meters go on."""

        async def stop(service: Service) -> None:
            service.stop()
            await self._task

        if self._service is not None:
            self._do(stop(self._service))
            self._service = None

    def meter(self, change: Callable[[SimulatedMeter], object], number: int = 0) -> None:
        """Change something at a simulated meter, on its loop."""

        async def changed() -> None:
            change(self._meters[number])

        self._do(changed())

    def begin(self, transaction_id: str = "T-1", **fields: Any) -> None:
        """Begin a transaction at the first meter."""
        fields = {"identification_data": "04A2B3C4D5E6F7", "tariff_text": "0.49 EUR/kWh"} | fields
        request = TransactionReq.from_json(start_payload(transaction_id, **fields))
        assert self._do(self._driver.start_transaction(request)).error == ""

    def end(self, transaction_id: str = "T-1") -> None:
        """End it."""
        assert self._do(self._driver.stop_transaction(transaction_id)).error == ""

    @property
    def _driver(self) -> MeterDriver:
        assert self._service is not None
        api = self._service._meters[0].api
        assert api is not None
        return api.driver

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            for name in self._names:
                server = await stack.enter_async_context(SimulatorServer(SimulatorOptions(**self._options)))
                self._meters.append(server.meter)
                address = {"ip_address": server.host, "port_http": server.port, "CI": CI}
                self._configs.append(MeterConfig(name, Settings.of(address)))
            self._ready.set()
            await self._over.wait()
