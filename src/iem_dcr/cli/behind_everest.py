"""A meter that is charged at through EVerest's API: the client with its driver on one side, EVerest on the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import click

from iem_dcr.cli.everest_player import EverestPlayer, connected
from iem_dcr.everest_api.broker_errors import BrokerError
from iem_dcr.everest_api.meter_api import MeterApi
from iem_dcr.everest_api.mqtt import MqttConnection

if TYPE_CHECKING:
    from types import TracebackType

    from iem_dcr.config import Settings
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.driver import KeptReceipt, ReceiptSink, Station
    from iem_dcr.everest_api.mqtt_settings import MqttSettings
    from iem_dcr.powermeter import TransactionReq, TransactionStartResponse, TransactionStopResponse
    from iem_dcr.service.observation import ObservedMeter

CONNECT_S = 10.0
_GOES_OUT_WITHIN_S = 1.0


class Links:
    """Two connections to one broker, the client's and EVerest's, for as long as it is entered.

    Args:
        mqtt: how the broker is reached.
        module_id: tells these two from those of others at the same broker.

    Attributes:
        module_id: as given.
        client: the power meter's.
        everest: the one of EVerest's part.
    """

    def __init__(self, mqtt: MqttSettings, module_id: str) -> None:
        self.module_id = module_id
        self._address = mqtt.address
        self.client = MqttConnection(mqtt, identity=f"iem-dcr-{module_id}")
        self.everest = MqttConnection(mqtt, identity=f"everest-{module_id}")
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let what is on its way go out, and disconnect."""
        if self._tasks:
            await asyncio.gather(*(broker.close(_GOES_OUT_WITHIN_S) for broker in (self.client, self.everest)))
            await asyncio.gather(*self._tasks)

    async def open(self) -> None:
        """Connect; from then on again whenever a connection is lost.

        Raises:
            click.ClickException: the broker cannot be reached or does not take these clients.
        """
        try:
            await self.client.probe()
            self._tasks = [asyncio.create_task(broker.run()) for broker in (self.client, self.everest)]
            async with asyncio.timeout(CONNECT_S):
                await connected(self.client)
                await connected(self.everest)
        except BrokerError as error:
            raise click.ClickException(f"the broker {self._address} cannot be used: {error}") from error
        except TimeoutError as error:
            raise click.ClickException(f"no connection to the broker {self._address} within {CONNECT_S:g} s") from error


class _Both:
    """Two keepers of receipts."""

    def __init__(self, *sinks: ReceiptSink) -> None:
        self._sinks = sinks

    async def keep(self, kept: KeptReceipt) -> None:
        """Have both keep one."""
        for sink in self._sinks:
            await sink.keep(kept)


class MeterBehindEverest:
    """What a session needs of a meter, got through EVerest's API.

    Args:
        settings: of the meter.
        links: to the broker.
        station: is told what EVerest is told.
        sink: keeps the receipts on the client's side.
        observed: looks on, and is shown on the page.
    """

    def __init__(
        self, settings: Settings, links: Links, station: Station, sink: ReceiptSink, observed: ObservedMeter
    ) -> None:
        self._player = EverestPlayer(links.module_id, links.everest, station)
        self._api = MeterApi(links.module_id, settings, links.client, sink=_Both(sink, observed), observer=observed)
        observed.attach(self._api.driver, links.module_id)

    @property
    def address(self) -> str:
        """Address of the meter, ``host:port``."""
        return self._api.driver.address

    @property
    def value(self) -> MeterValue | None:
        """The last live value, as the meter gave it: more than EVerest is told."""
        return self._api.driver.value

    @property
    def public_key(self) -> str:
        """The public key that EVerest was told."""
        return self._player.public_key

    async def run(self) -> None:
        """Be both sides until cancelled."""
        tasks = [asyncio.create_task(self._player.run()), asyncio.create_task(self._api.run())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def start_transaction(self, request: TransactionReq) -> TransactionStartResponse:
        """Have EVerest begin a transaction."""
        return await self._player.start_transaction(request)

    async def stop_transaction(self, transaction_id: str) -> TransactionStopResponse:
        """Have EVerest end a transaction."""
        return await self._player.stop_transaction(transaction_id)
