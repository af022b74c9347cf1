"""The whole service with real brokers: killed in a session, EVerest away, requests that are none."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iem_dcr.everest_api.topics import Topics
from iem_dcr.simulator import Fault
from tests.support.api_bench import request, start_payload
from tests.support.brokers import BROKERS, PATIENCE_S, Mosquitto, Network, Recorder, real_time, until
from tests.support.serving import FROM_METERS, OK, REPLIES, answer, ask, receipt_of, serving, session, simulated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from iem_dcr.service.service import Service
    from iem_dcr.simulator import SimulatedMeter
    from tests.support.brokers import TestBroker

PM = Topics("pm1")
START_REPLY, STOP_REPLY = "reply/start", "reply/stop"


class Outages:
    """EVerest and the service at a broker that is killed and started again.

    Attributes:
        everest: EVerest as it is connected now; it remembers nothing of the time before an outage.
        meter: the simulated meter.
        service: the service.
    """

    def __init__(self, broker: TestBroker, network: Network, meter: SimulatedMeter, service: Service) -> None:
        self._broker = broker
        self._network = network
        self._stack = contextlib.ExitStack()
        self.meter = meter
        self.service = service
        self.connect()

    def connect(self) -> None:
        """Connect EVerest and subscribe."""
        self.everest = self._stack.enter_context(Recorder(self._broker, FROM_METERS, REPLIES))

    def close(self) -> None:
        """Disconnect EVerest."""
        self._stack.close()

    async def break_down(self) -> None:
        """Kill the broker, let the meter be read twice, and start the broker again. EVerest is back before the service.

        So it hears what the service has to say, and what it asks for before that is lost.
        """
        self._network.cut()
        self._broker.kill()
        self.close()
        read = self.read
        await until(lambda: self.read >= read + 2)
        assert await asyncio.to_thread(self._broker.start)
        await asyncio.to_thread(self.connect)

    def mend(self) -> None:
        """Let the service reach the broker."""
        self._network.mend()

    async def be_back(self) -> None:
        """Let the service reach the broker, and wait until it says what EVerest has to be told."""
        self.mend()
        for topic in (PM.check, PM.key, PM.values):
            await until(lambda topic=topic: self.everest.payloads(topic))  # type: ignore[misc]

    @property
    def read(self) -> int:
        """How often the meter was read for live values."""
        return self.meter.request_counts["GET", "/metervalue"]

    @property
    def posted(self) -> int:
        """How often B or E was posted: E before B, B, and E at the end, where nothing goes wrong."""
        return self.meter.request_counts["POST", "/receipt"]


@contextlib.asynccontextmanager
async def outages(kind: type[TestBroker]) -> AsyncIterator[Outages]:
    with kind() as broker:
        async with (
            Network(broker) as network,
            simulated(load_delay_s=3600.0, signing_delay_s=1.5) as (meter, port),
            serving(broker.settings(port=network.port), {"pm1": port}) as service,
        ):
            site = Outages(broker, network, meter, service)
            try:
                await until(lambda: site.everest.payloads(PM.values) and site.everest.payloads(PM.key))
                yield site
            finally:
                site.close()


@BROKERS
@real_time
async def test_a_session_while_the_broker_is_killed_at_each_step(kind: type[TestBroker]) -> None:
    start, stop = request(start_payload("T-1"), START_REPLY), request("T-1", STOP_REPLY)
    async with outages(kind) as site:
        meter = site.meter
        await site.break_down()
        await ask(site.everest, PM.start, start)  # lost: the broker has nobody to hold it for
        await site.be_back()
        assert meter.state.begun == 0

        meter.faults.add(Fault("drip", "/receipt", "POST", count=2, delay_s=0.01))
        await ask(site.everest, PM.start, start)
        await until(lambda: meter.state.begun)
        assert not site.everest.payloads(START_REPLY)
        await site.break_down()
        await site.be_back()
        assert await answer(site.everest, START_REPLY) == OK
        assert len(site.everest.payloads(START_REPLY)) == 1

        await site.break_down()
        await ask(site.everest, PM.stop, stop)  # lost as well
        await site.be_back()
        assert meter.running

        await ask(site.everest, PM.stop, stop)
        await until(lambda: meter.state.ended)
        assert not site.everest.payloads(STOP_REPLY)
        await site.break_down()
        site.close()  # this time EVerest is back at the broker later than the service
        site.mend()
        await until(lambda: site.service.status.endswith("broker connected"))
        await asyncio.to_thread(site.connect)
        receipt = receipt_of(await answer(site.everest, STOP_REPLY), "T-1")
        assert len(site.everest.payloads(STOP_REPLY)) == 1

        await site.break_down()
        await site.be_back()
        assert not site.everest.payloads(STOP_REPLY)
        for reply_to in (STOP_REPLY, "reply/another"):
            await ask(site.everest, PM.stop, request("T-1", reply_to))
            assert receipt_of(await answer(site.everest, reply_to), "T-1") == receipt
        assert (meter.state.begun, meter.state.ended, site.posted) == (1, 1, 3)


def enveloped(payload: str, reply_to: str) -> bytes:
    return f'{{"headers": {{"replyTo": "{reply_to}"}}, "payload": {payload}}}'.encode()


def names_transaction(payload: object) -> bool:
    """Tell whether it is a stop's payload: then the meter is asked for that transaction for a while."""
    return isinstance(payload.get("transaction_id") if isinstance(payload, dict) else payload, str)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text() | st.just("transaction_id"), part, max_size=4),
    max_leaves=12,
)
RANDOM = st.one_of(
    st.binary(max_size=200).map(lambda some: (some, False)),
    JSON.map(lambda value: (json.dumps(value).encode(), False)),
    JSON.map(lambda value: (json.dumps({"headers": value, "payload": value}).encode(), False)),
    JSON.filter(lambda value: not names_transaction(value)).map(
        lambda value: (enveloped(json.dumps(value), "<to>"), True)
    ),
    st.text(max_size=40).map(lambda text: (enveloped(text + "]", "<to>"), False)),
)


def flood(everest: Recorder, numbers: Iterator[int]) -> None:
    """Publish whatever comes to mind, and wait for the answers."""

    @settings(suppress_health_check=list(HealthCheck))
    @given(RANDOM, st.sampled_from([(PM.start, PM.stop), (PM.stop, PM.start)]))
    def publish(what: tuple[bytes, bool], topics: Sequence[str]) -> None:
        text, is_answered = what
        for topic in topics:
            reply_to = f"reply/{next(numbers)}"
            everest.publish(topic, text.replace(b"<to>", reply_to.encode()))
            give_up_s = time.monotonic() + PATIENCE_S
            while is_answered and not everest.payloads(reply_to):
                assert time.monotonic() < give_up_s
                time.sleep(0.001)
            for payload in everest.payloads(reply_to):
                assert json.loads(payload)["status"] == "UNEXPECTED_ERROR"

    publish()


@real_time
async def test_whatever_is_published_as_a_request_harms_nothing() -> None:
    with Mosquitto() as broker, Recorder(broker, FROM_METERS, REPLIES) as everest:
        async with simulated() as (meter, port), serving(broker.settings(), {"pm1": port}):
            await until(lambda: everest.payloads(PM.values))
            await asyncio.to_thread(flood, everest, itertools.count())
            assert meter.state.begun == 0
            assert await session(everest, "pm1", "T-1")
            assert meter.state.begun == 1
