"""A broker inside this process: MQTT 3.1.1 on the loopback interface, open to everybody on this host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Self

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter  # type: ignore[import-untyped]
from amqtt.broker import Broker  # type: ignore[import-untyped]
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType  # type: ignore[import-untyped]

from iem_dcr.errors import printable

if TYPE_CHECKING:
    from types import TracebackType

_log = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
_ENDS_WITHIN_S = 2.0
_LISTENER = "default"
_PLUGINS = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
"""amqtt refuses whoever no plugin lets in; what it loads by default besides publishes and logs."""


class EmbeddedBroker:
    """amqtt, on a free port for as long as it is entered.

    It is handed connections that are accepted here: of a port that it listens on itself it could not tell which.

    Attributes:
        port: TCP port, once it is entered.
    """

    def __init__(self) -> None:
        self.port = 0
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Start it."""
        for name in ("amqtt", "transitions"):
            # What becomes of a connection is seen at its other end, and said there.
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        listener = ListenerConfig(type=ListenerType.EXTERNAL)
        self._broker = Broker(BrokerConfig(listeners={_LISTENER: listener}, plugins=dict(_PLUGINS)))
        await self._broker.start()
        try:
            self._server = await asyncio.start_server(self._take, HOST, 0)
        except BaseException:
            await self._broker.shutdown()
            raise
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, and every connection with it."""
        self._server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDS_WITHIN_S):
                await self._broker.shutdown()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(
            self._broker.external_connected(StreamReaderAdapter(reader), StreamWriterAdapter(writer), _LISTENER)
        )
        self._connections.add(task)
        try:
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is not None:
                _log.debug("a connection failed: %s", printable(repr(task.exception())))
        finally:
            self._connections.discard(task)
            writer.transport.abort()
