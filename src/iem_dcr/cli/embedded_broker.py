"""A broker inside this process: MQTT 3.1.1 on the loopback interface, open to every program on this host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter  # type: ignore[import-untyped]
from amqtt.broker import Broker  # type: ignore[import-untyped]
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType  # type: ignore[import-untyped]

from iem_dcr.errors import printable
from iem_dcr.everest_api.mqtt_settings import MqttSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_log = logging.getLogger(__name__)

_HOST: Final = "127.0.0.1"
_SHUTDOWN_TIMEOUT_S: Final = 2.0
_LISTENER: Final = "default"
_PLUGINS: Final = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
"""amqtt refuses a client unless a plugin admits it. Its other default plugins publish and log, so they are left out."""


@contextlib.asynccontextmanager
async def embedded_broker() -> AsyncIterator[MqttSettings]:
    """Run amqtt on a free port while the context is entered; yields how to reach it.

    Connections are accepted here and passed to amqtt, because amqtt does not tell which port it listens on.
    """
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # the client's side logs what failed
    broker = Broker(BrokerConfig(listeners={_LISTENER: ListenerConfig(type=ListenerType.EXTERNAL)}, plugins=_PLUGINS))
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams = StreamReaderAdapter(reader), StreamWriterAdapter(writer)
        task = asyncio.ensure_future(broker.external_connected(*streams, _LISTENER))
        connections.add(task)
        try:
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is not None:
                _log.debug("a connection failed: %s", printable(repr(task.exception())))
        finally:
            connections.discard(task)
            writer.transport.abort()

    await broker.start()
    try:
        with contextlib.closing(await asyncio.start_server(serve, _HOST, 0)) as server:
            port = server.sockets[0].getsockname()[1]
            yield MqttSettings(host=_HOST, port=port, protocol="3.1.1")
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_TIMEOUT_S):
                await broker.shutdown()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
