"""A broker inside this process: MQTT 3.1.1 on the loopback interface, open to every program on this host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Final

from amqtt.broker import Broker  # type: ignore[import-untyped]
from amqtt.contexts import BrokerConfig, ListenerConfig  # type: ignore[import-untyped]

from iem_dcr.everest_api.mqtt_settings import MqttSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_HOST: Final = "127.0.0.1"
_SHUTDOWN_TIMEOUT_S: Final = 1.0
"""From Python 3.12 on amqtt waits for clients that stay connected."""
_PLUGINS: Final = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
"""amqtt refuses a client unless a plugin admits it. Its other default plugins publish and log, so they are left out."""


@contextlib.asynccontextmanager
async def embedded_broker() -> AsyncIterator[MqttSettings]:
    """Run amqtt on a free port while the context is entered; yields how to reach it."""
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # the client's side logs what failed
    with socket.socket() as trial:  # amqtt does not tell which port it listens on
        trial.bind((_HOST, 0))
        port = trial.getsockname()[1]
    listener = ListenerConfig(bind=f"{_HOST}:{port}")
    broker = Broker(BrokerConfig(listeners={"default": listener}, plugins=_PLUGINS))
    await broker.start()
    try:
        yield MqttSettings(host=_HOST, port=port, protocol="3.1.1")
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_TIMEOUT_S):
                await broker.shutdown()
        # The loop ends now, and with it the tasks of clients that are still connected: Python 3.11 logs that.
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
