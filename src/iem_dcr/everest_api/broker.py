"""The bus over a real broker: one connection that all meters share, made again whenever it is lost.

What goes out at QoS 0 waits in one slot for each topic, so a broker that is slow or away makes nothing grow. What comes
in is handed to its handlers as it is read; there is no queue that one meter's messages could fill for another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import ConfigError, printable
from iem_dcr.everest_api.dialing import BrokerTroubleError, dial
from iem_dcr.everest_api.link import Link, LinkLostError, NobodyListensError
from iem_dcr.everest_api.mqtt_settings import MqttSettings
from iem_dcr.everest_api.outages import Outages
from iem_dcr.everest_api.subscriptions import Subscriptions, qos_of
from iem_dcr.everest_api.topics import can_be_published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from iem_dcr.everest_api.bus import Handler

__all__ = ["Broker", "MqttSettings"]

_log = logging.getLogger(__name__)

CONNECT_S: Final = 12.0
"""How long all addresses of the broker's host may take together."""

MOST_UNDER_WAY: Final = 16
"""Messages that wait for an acknowledgement at the same time; brokers take 20 and more (mosquitto's
max_inflight_messages)."""
_MOST_LOST: Final = 5
"""A message that a connection did not survive that often is not sent again: it may be the reason."""
_LOST_BY_IT_S: Final = 1.0

HEARD_WITHIN_S: Final = 5.0
"""After a reconnection a message from before it waits so long for a first word of those it is meant for: they may have
lost their connection too, and be slower to come back; nothing keeps it for them then."""
SETTLES_S: Final = 0.5
LISTENS_PAUSES_S: Final = (0.25, 5.0)
"""First and longest pause before a message that nobody listened to is published again."""

_TOPICS_AT_ONCE = 64
_GATHER_S = 0.005
"""Values that come within it are written together."""


@dataclass(frozen=True, slots=True)
class _Offer:
    payload: bytes
    until_s: float


class Broker:
    """The bus of all meters of a process.

    With MQTT 5 the session outlives a connection, and the process, by 30 s: requests sent meanwhile come afterwards.

    Args:
        settings: how the broker is reached.
        identity: name of this client at the broker where the settings give none; has to be the same after a restart of
            the same service, and no other's.
    """

    def __init__(self, settings: MqttSettings, *, identity: str) -> None:
        self._settings = settings
        self._client_id = settings.client_id or identity
        self._name = f"broker {printable(settings.address)}"
        self._when_connected: dict[object, Callable[[], None]] = {}
        self._slots: dict[str, _Offer] = {}
        self._is_sending = False
        self._link: Link | None = None
        self._linked = asyncio.Event()
        self._heard = asyncio.Event()
        self._work = asyncio.Event()
        self._subscriptions = Subscriptions(self._work.set)
        self._progress = asyncio.Event()
        self._delivering = 0
        self._under_way = asyncio.Semaphore(MOST_UNDER_WAY)
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._outages = Outages(self._name)
        self._refused = RateLimitedLog(_log, now_s)

    # --- The bus ---

    @property
    def connected(self) -> bool:
        """Whether there is a connection and all subscriptions are acknowledged."""
        return self._link is not None

    def subscribe(self, topic: str, handler: Handler) -> None:
        """See `bus.Bus.subscribe`. Requests are taken at QoS 1, heartbeats at QoS 0."""
        self._subscriptions.add(topic, handler)

    def unsubscribe(self, topic: str, handler: Handler) -> None:
        """See `bus.Bus.unsubscribe`.

        The broker learns of it 30 s later only: a service that restarts, or one meter's part of it, finds the requests
        of that time.
        """
        self._subscriptions.remove(topic, handler)

    def on_connected(self, handler: Callable[[], None]) -> Callable[[], None]:
        """See `bus.Bus.on_connected`."""
        key = object()
        self._when_connected[key] = handler

        def take_back() -> None:
            self._when_connected.pop(key, None)

        return take_back

    def offer(self, topic: str, payload: bytes, *, good_for_s: float) -> None:
        """See `bus.Bus.offer`."""
        if topic not in self._slots and not can_be_published(topic):
            return
        self._slots[topic] = _Offer(payload, asyncio.get_running_loop().time() + good_for_s)
        self._work.set()

    async def deliver(self, topic: str, payload: bytes, *, within_s: float) -> bool:
        """See `bus.Bus.deliver`. It may arrive twice where the connection is lost before the acknowledgement.

        Returns:
            False also when the broker refuses it, and once the bus is closed.
        """
        if not can_be_published(topic):
            _log.warning("%s: nothing can be published on topic %r", self._name, printable(topic))
            return False
        deadline_s = asyncio.get_running_loop().time() + within_s
        self._delivering += 1
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._deliver(topic, payload, deadline_s)
        except TimeoutError:
            return False
        finally:
            self._delivering -= 1
            self._progress.set()

    # --- From run to close ---

    async def run(self) -> None:
        """Connect, and again whenever the connection is lost, until it is cancelled or `close` is called."""
        self._ended.clear()
        tasks = [asyncio.create_task(self._keep_connected()), asyncio.create_task(self._closing.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._subscriptions.stop_timers()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                self._ended.set()
                self._progress.set()

    async def probe(self) -> None:
        """Connect once and disconnect, to learn at once whether it can be done.

        Raises:
            BrokerTroubleError: it cannot; the message is the reason.
        """
        (await self._connect()).shut()

    async def run_once(self) -> None:
        """Connect once, and use that connection until it is lost or this is cancelled.

        Raises:
            BrokerTroubleError: there is no connection, or none any more; nothing is logged.
        """
        try:
            raise await self._serve(await self._connect())
        finally:
            self._subscriptions.stop_timers()

    async def close(self, within_s: float) -> None:
        """Let what is being delivered and offered go out, for that long at most, then disconnect and end `run`.

        The broker keeps the session for 30 s (MQTT 5), as after a lost connection.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._delivering or (self._link is not None and (self._slots or self._is_sending)):
                    self._progress.clear()
                    await self._progress.wait()
        self._closing.set()
        await self._ended.wait()
        self._linked.set()  # whoever still waits sees that it is closed

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                link = await self._connect()
                since_s = loop.time()
                try:
                    trouble = await self._serve(link)
                finally:
                    lasted_s = loop.time() - since_s
                    self._outages.lasted(lasted_s)
                self._outages.ended(trouble, lasted_s)
            except BrokerTroubleError as error:
                self._outages.not_made(error)
            except Exception as error:  # noqa: BLE001  a mistake here must not end the service of all meters
                _log.exception("%s: the connection failed, which is a mistake in the program", self._name)
                self._outages.tell(BrokerTroubleError(printable(error)))
            await asyncio.sleep(self._outages.next_pause_s())

    async def _connect(self) -> Link:
        settings = self._settings
        try:
            password, tls = await asyncio.to_thread(lambda: (settings.current_password(), settings.tls_context()))
        except ConfigError as error:
            raise BrokerTroubleError("; ".join(error.problems), lasting=True) from error
        try:
            async with asyncio.timeout(CONNECT_S):
                made = await dial(settings.host, settings.port, tls)
        except TimeoutError as error:
            raise BrokerTroubleError(f"it does not answer within {CONNECT_S:g} s") from error
        try:
            link = Link(settings, password, self._client_id, made, self._take)
        except BaseException:
            made.close()
            raise
        try:
            await link.open()
        except BaseException:
            link.shut()
            raise
        return link

    async def _serve(self, link: Link) -> BrokerTroubleError:
        """Use a connection until its end, and return why it ended."""
        self._subscriptions.begin_anew()
        pump = asyncio.create_task(self._pump(link))
        try:
            await asyncio.wait((pump, link.gone), return_when=asyncio.FIRST_COMPLETED)
            trouble = link.trouble
        finally:
            self._forget(link)
            link.shut()
            pump.cancel()
            (ended,) = await asyncio.gather(pump, return_exceptions=True)
        if isinstance(ended, Exception) and not isinstance(ended, LinkLostError):
            raise ended
        return trouble

    def _forget(self, link: Link) -> None:
        if self._link is link:
            self._link = None
            self._linked.clear()
            self._heard.clear()
            self._progress.set()

    # --- What goes out ---

    async def _pump(self, link: Link) -> None:
        await self._subscribe(link)
        self._announce(link)
        while True:
            self._work.clear()
            await self._subscribe(link)
            batch = self._batch()
            if batch:
                self._is_sending = True
                try:
                    await link.send(batch)
                finally:
                    self._is_sending = False
                await asyncio.sleep(_GATHER_S)
            self._progress.set()
            if not self._slots:
                await self._work.wait()

    async def _subscribe(self, link: Link) -> None:
        todo = self._subscriptions
        while todo.to_subscribe:
            topics = {topic: qos_of(topic) for topic in _first(todo.to_subscribe)}
            refused = await link.subscribe_all(topics)
            for topic in topics:
                todo.to_subscribe.pop(topic, None)
            for topic, why in refused:
                _log.error(
                    "%s: it refuses the subscription to %s (%s): see its access rules",
                    self._name,
                    printable(topic, limit=300),
                    printable(why),
                )
        while todo.to_leave:
            leaving = _first(todo.to_leave)
            await link.unsubscribe_all(leaving)
            for topic in leaving:
                todo.to_leave.pop(topic, None)

    def _announce(self, link: Link) -> None:
        again = " again" if self._outages.over() else ""
        _log.info("%s: connected%s as %s", self._name, again, printable(self._client_id))
        self._link = link
        self._linked.set()
        for handler in tuple(self._when_connected.values()):
            try:
                handler()
            except Exception:  # noqa: BLE001  one meter's mistake is not the others'
                _log.exception("%s: what follows a connection failed, which is a mistake in the program", self._name)

    def _batch(self) -> list[tuple[str, bytes]]:
        now_s = asyncio.get_running_loop().time()
        taken = [(topic, self._slots.pop(topic)) for topic in _first(self._slots)]
        return [(topic, offer.payload) for topic, offer in taken if offer.until_s >= now_s]

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001  as a handler takes it
        if not retained:
            self._heard.set()
        self._subscriptions.dispatch(topic, payload, retained)

    async def _deliver(self, topic: str, payload: bytes, deadline_s: float) -> bool:
        loop = asyncio.get_running_loop()
        pause_s, longest_s = LISTENS_PAUSES_S
        began_on = self._link
        lost = 0
        while lost < _MOST_LOST:
            await self._linked.wait()
            if self._closing.is_set():
                return False
            if self._link is not began_on:
                await self._wait_for_others()
                began_on = self._link
            since_s = loop.time()
            try:
                fate = await self._attempt(topic, payload, deadline_s)
            except LinkLostError:
                lost += loop.time() - since_s < _LOST_BY_IT_S
            except NobodyListensError:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, longest_s)
            else:
                if fate is not None:
                    return fate
        _log.error("%s: a message on %r broke %d connections and is dropped", self._name, printable(topic), _MOST_LOST)
        return False

    async def _attempt(self, topic: str, payload: bytes, deadline_s: float) -> bool | None:
        """Publish once; returns whether the broker has taken it, None without a connection."""
        async with self._under_way:
            link = self._link
            if link is None:
                return None
            if link.gone.done():
                self._forget(link)
                return None
            good_for_s = deadline_s - asyncio.get_running_loop().time()
            refused = await link.send_acknowledged(topic, payload, good_for_s=good_for_s)
        if refused is not None:
            self._refused.warning(
                "%s: it refuses a message on %r (%s)", self._name, printable(topic), printable(refused)
            )
        return refused is None

    async def _wait_for_others(self) -> None:
        """Give those whom a message is for time to be at the broker again as well."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARD_WITHIN_S):
                await self._heard.wait()
        await asyncio.sleep(SETTLES_S)


def _first(topics: Iterable[str]) -> tuple[str, ...]:
    return tuple(islice(topics, _TOPICS_AT_ONCE))
