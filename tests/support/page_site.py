"""The service with its bring-up page, on a loop in a thread of its own, with simulated meters for it to show."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from iem_dcr.config import Settings
from iem_dcr.everest_api.mqtt_settings import MqttSettings
from iem_dcr.powermeter import TransactionReq
from iem_dcr.service.config import MeterConfig, ServiceConfig
from iem_dcr.service.service import Service
from iem_dcr.service.web_settings import WebSettings
from iem_dcr.simulator import SimulatedMeter, SimulatorOptions, SimulatorServer
from tests.support.bench import CI, SECRET, SERIAL
from tests.support.service_site import FailingBus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from iem_dcr.driver import MeterDriver

T = TypeVar("T")

PATIENCE_S = 30.0


class PageSite:
    """A service with simulated meters and the page.

    Args:
        names: module_ids of the meters.
        web: how the page is served; at any port of loopback without it.
        settings: of the drivers.
        options: of the simulated meters.
    """

    def __init__(
        self,
        *names: str,
        web: WebSettings | None = None,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._names = names or ("pm1",)
        self._web = web or WebSettings("127.0.0.1:0")
        self._settings = settings or {}
        self._options: dict[str, Any] = {"MS": SERIAL, "private_key": SECRET, "signing_delay_s": 0.02} | options
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))
        self._meters: list[SimulatedMeter] = []
        self._service: Service | None = None
        self._configs: tuple[MeterConfig, ...] = ()
        self._port = self._web.port

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._service is not None:
            self.stop()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def url(self) -> str:
        """Where the page is, without a slash behind."""
        assert self._service is not None
        assert self._service.page is not None
        return self._service.page.url.rstrip("/")

    def start(self) -> None:
        """Start the service; again at the same port."""

        async def start() -> None:
            web = WebSettings(f"{self._web.host}:{self._port}", self._web.token, self._web.token_file, self._web.names)
            self._service = Service(ServiceConfig(MqttSettings(), self._configs, web), broker=FailingBus())
            self._task = asyncio.create_task(self._service.run())
            assert self._service.page is not None
            await self._service.page.listening.wait()
            self._port = self._service.page.port

        self.do(start)

    def stop(self) -> None:
        """Stop the service; the meters go on."""

        async def stop() -> None:
            assert self._service is not None
            self._service.stop()
            await self._task
            self._service = None

        self.do(stop)

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something on the loop."""

        async def done() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(PATIENCE_S)

    def meter(self, change: Callable[[SimulatedMeter], object], number: int = 0) -> None:
        """Change something at a simulated meter, on its loop."""

        async def changed() -> None:
            change(self._meters[number])

        self.do(changed)

    def begin(self, transaction_id: str = "T-1", number: int = 0, **fields: Any) -> None:
        """Begin a transaction at a meter."""
        request = TransactionReq.from_json(
            {
                "evse_id": CI,
                "transaction_id": transaction_id,
                "identification_status": "ASSIGNED",
                "identification_flags": [],
                "identification_type": "ISO14443",
                "identification_data": "04A2B3C4D5E6F7",
                "tariff_text": "0.49 EUR/kWh",
            }
            | fields
        )
        response = self.do(lambda: self._driver(number).start_transaction(request))
        assert response.error == ""

    def end(self, transaction_id: str = "T-1", number: int = 0) -> str:
        """End it; return its receipt."""
        response = self.do(lambda: self._driver(number).stop_transaction(transaction_id))
        assert response.error == ""
        assert response.signed_meter_value is not None
        return response.signed_meter_value.signed_meter_data

    def _driver(self, number: int) -> MeterDriver:
        assert self._service is not None
        api = self._service._meters[number].api
        assert api is not None
        return api.driver

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            configs = []
            for name in self._names:
                server = await stack.enter_async_context(SimulatorServer(SimulatorOptions(**self._options)))
                self._meters.append(server.meter)
                address = {"ip_address": server.host, "port_http": server.port, "CI": CI}
                configs.append(MeterConfig(name, Settings.of(address | self._settings)))
            self._configs = tuple(configs)
            self._ready.set()
            await self._over.wait()
