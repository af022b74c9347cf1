"""The metrics of the service, for Prometheus: every name, what it means, and where its numbers come from.

The numbers are taken up on the loop, a few meters at a time; the text is written in a thread of its own, so that not
even a thousand meters' metrics hold up one of them, nor the check of a receipt. The registry is the service's own.
`prometheus_client` is imported when the first metrics are asked for.

Labels are bounded: nothing that a meter says, and nothing of users or transactions, is one.
"""

from __future__ import annotations

import asyncio
import platform
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final, TypeAlias

from iem_dcr import __version__
from iem_dcr.service.counts import BUCKETS_S, FAULTS
from iem_dcr.service.one_thread import OneThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from decimal import Decimal

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from iem_dcr.device.messages import MeterValue
    from iem_dcr.service.observation import ObservedMeter
    from iem_dcr.service.standing import Standing

UP_WITHIN_S: Final = 5.0
"""A meter whose last live value is older is down; a single reading may fail."""
WRITTEN_WITHIN_S: Final = 8.0
METERS_AT_ONCE: Final = 50
"""So many meters' numbers are taken up before the loop goes on with other things."""

Numbers: TypeAlias = "Iterable[tuple[tuple[str, ...], float]]"


@dataclass(frozen=True, slots=True)
class MeterState:
    """What there is to say of a meter at a moment, copied: the loop goes on while the text is written.

    Attributes:
        module_id: of EVerest's module; the meter's address while that is not known.
        address: of the meter, ``host:port``.
        value: the last live value, or None before the first.
        age_s: seconds since it was read.
        clock_off_s: how far the meter's clock was ahead of the host's then, seconds.
        durations: of each kind of request, how many fell into each bucket and the sum in seconds.
        failures: requests that failed, by why.
        commands: the station's, by command and result.
        transactions: how many were seen to begin, and to end.
        raised: faults by name.
        active: names of the faults that stand.
        receipts: by verdict.
        held_registers: how often a register that fell was published at its value before.
        frozen_values: live values that were not published because nothing in them moved.
        is_duplicate: its serial answers at another address of the file, too.
    """

    module_id: str
    address: str
    value: MeterValue | None
    age_s: float | None
    clock_off_s: float | None
    durations: tuple[tuple[str, tuple[int, ...], float], ...]
    failures: dict[str, int]
    commands: dict[tuple[str, str], int]
    transactions: tuple[int, int]
    raised: dict[str, int]
    active: frozenset[str]
    receipts: dict[str, int]
    held_registers: int
    frozen_values: int
    is_duplicate: bool

    @classmethod
    def of(cls, meter: ObservedMeter) -> MeterState:
        """Copy what there is to say of a meter; to be called on the loop."""
        status, counts = meter.status(), meter.counts
        return cls(
            module_id=meter.name,
            address=meter.address,
            value=status.value,
            age_s=status.age_s,
            clock_off_s=None if status.clock_offset is None else status.clock_offset.total_seconds(),
            durations=tuple((name, tuple(of.counts), of.sum_s) for name, of in counts.durations.items()),
            failures=dict(counts.failures),
            commands=dict(counts.commands),
            transactions=(counts.begun, counts.ended),
            raised=dict(counts.raised),
            active=frozenset(counts.active),
            receipts=dict(counts.receipts),
            held_registers=meter.held_registers,
            frozen_values=meter.frozen_values,
            is_duplicate=meter.is_duplicate,
        )

    @property
    def live(self) -> MeterValue | None:
        """The last live value while it is one; what is old is no reading."""
        return self.value if self.age_s is not None and self.age_s <= UP_WITHIN_S else None


@dataclass(frozen=True, slots=True)
class Family:
    """One metric of every meter.

    Attributes:
        name: without the suffix that a counter has.
        kind: gauge or counter.
        text: what it means.
        numbers: of a meter: values of the labels beside module_id, and the number.
        labels: their names.
    """

    name: str
    kind: str
    text: str
    numbers: Callable[[MeterState], Numbers]
    labels: tuple[str, ...] = ()


def _reading(pick: Callable[[MeterValue], Decimal | float | None]) -> Callable[[MeterState], Numbers]:
    """Make numbers of a reading, which there is only while it is fresh."""

    def numbers(meter: MeterState) -> Numbers:
        number = None if meter.live is None else pick(meter.live)
        return () if number is None else (((), float(number)),)

    return numbers


def _single(pick: Callable[[MeterState], float | None]) -> Callable[[MeterState], Numbers]:
    def numbers(meter: MeterState) -> Numbers:
        number = pick(meter)
        return () if number is None else (((), number),)

    return numbers


def _by(pick: Callable[[MeterState], dict[str, int]]) -> Callable[[MeterState], Numbers]:
    return lambda meter: (((name,), count) for name, count in pick(meter).items())


FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "iem_dcr_meter_up",
        "gauge",
        "1 while the last live value is at most 5 s old, else 0",
        _single(lambda meter: float(meter.live is not None)),
    ),
    Family(
        "iem_dcr_meter_info",
        "gauge",
        "Always 1; the meter's address is in the label",
        lambda meter: (((meter.address,), 1.0),),
        ("address",),
    ),
    Family(
        "iem_dcr_value_age_seconds",
        "gauge",
        "Age of the last live value; none before the first",
        _single(lambda meter: meter.age_s),
    ),
    Family("iem_dcr_power_watts", "gauge", "Power (P)", _reading(lambda value: value.P)),
    Family("iem_dcr_voltage_volts", "gauge", "DC voltage (U2)", _reading(lambda value: value.U2)),
    Family("iem_dcr_current_amperes", "gauge", "Current (I)", _reading(lambda value: value.I)),
    Family(
        "iem_dcr_import_watthours",
        "counter",
        "Import register, in Wh as the meter is approved for",
        _reading(lambda value: value.import_wh),
    ),
    Family(
        "iem_dcr_export_watthours",
        "counter",
        "Export register; none where the meter has none",
        _reading(lambda value: value.export_wh),
    ),
    Family(
        "iem_dcr_transaction_active",
        "gauge",
        "1 while a transaction runs in the meter (XT)",
        _reading(lambda value: None if value.XT is None else float(value.XT)),
    ),
    Family(
        "iem_dcr_clock_difference_seconds",
        "gauge",
        "How far the meter's clock is ahead of the host's",
        _single(lambda meter: None if meter.live is None else meter.clock_off_s),
    ),
    Family(
        "iem_dcr_fault_active",
        "gauge",
        "1 while this fault stands at the station",
        lambda meter: (((fault,), float(fault in meter.active)) for fault in FAULTS),
        ("fault",),
    ),
    Family(
        "iem_dcr_faults",
        "counter",
        "Faults that were raised at the station",
        _by(lambda meter: meter.raised),
        ("fault",),
    ),
    Family(
        "iem_dcr_transactions_begun",
        "counter",
        "Transactions that were seen to begin in the meter",
        _single(lambda meter: meter.transactions[0]),
    ),
    Family(
        "iem_dcr_transactions_ended",
        "counter",
        "Transactions that were seen to end in the meter",
        _single(lambda meter: meter.transactions[1]),
    ),
    Family(
        "iem_dcr_commands",
        "counter",
        "The station's starts and stops, by what they were answered",
        lambda meter: iter(meter.commands.items()),
        ("command", "result"),
    ),
    Family(
        "iem_dcr_receipts",
        "counter",
        "Receipts that were handed over, each once, by what their check said",
        _by(lambda meter: meter.receipts),
        ("verdict",),
    ),
    Family(
        "iem_dcr_held_registers",
        "counter",
        "How often a register that fell was published at its value before",
        _single(lambda meter: meter.held_registers),
    ),
    Family(
        "iem_dcr_frozen_values",
        "counter",
        "Live values that were not published because nothing in them moved",
        _single(lambda meter: meter.frozen_values),
    ),
    Family(
        "iem_dcr_duplicate_serial_active",
        "gauge",
        "1 while the meter's serial answers at another address of the file, too",
        _single(lambda meter: float(meter.is_duplicate)),
    ),
    Family(
        "iem_dcr_requests_failed",
        "counter",
        "Requests to the meter that failed, by why",
        _by(lambda meter: meter.failures),
        ("reason",),
    ),
)
DURATION: Final = ("iem_dcr_request_duration_seconds", "How long requests to the meter took that were answered")
BUILD: Final = ("iem_dcr_build", "Version of iem-dcr and of Python")
BROKER: Final = ("iem_dcr_broker_connected", "1 while the service is connected to the broker; none where there is none")


class Metrics:
    """The metrics of the meters of this process.

    Args:
        meters: of the process.
        standing: how the service is.
    """

    def __init__(self, meters: Sequence[ObservedMeter], standing: Callable[[], Standing]) -> None:
        self._meters = meters
        self._standing = standing
        self._states: tuple[MeterState, ...] = ()
        self._broker_connected: bool | None = None
        self._registry: CollectorRegistry | None = None
        self._one_at_a_time = asyncio.Lock()
        self._writing = OneThread("page-metrics")

    def close(self) -> None:
        """Let the thread end."""
        self._writing.close()

    async def written(self, accept: str) -> tuple[bytes, str]:
        """Write the metrics in the format that is asked for.

        Args:
            accept: header Accept of the request.

        Returns:
            The text in UTF-8, and its Content-Type.

        Raises:
            TimeoutError: it takes too long.
        """
        async with self._one_at_a_time:
            states = []
            for number, meter in enumerate(self._meters, 1):
                states.append(MeterState.of(meter))
                if number % METERS_AT_ONCE == 0:
                    await asyncio.sleep(0)
            self._states, self._broker_connected = tuple(states), self._standing().broker_connected
            return await self._writing.do(lambda: self._write(accept), WRITTEN_WITHIN_S)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, with the numbers that were taken up last; called by the registry."""
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily  # noqa: PLC0415  # see above

        yield InfoMetricFamily(*BUILD, value={"version": __version__, "python": platform.python_version()})
        broker = GaugeMetricFamily(*BROKER)
        if self._broker_connected is not None:
            broker.add_metric((), self._broker_connected)
        yield broker
        for family in FAMILIES:
            yield _metric(family, self._states)
        yield _durations(self._states)

    def _write(self, accept: str) -> tuple[bytes, str]:
        from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415  # see above
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415  # see above

        if self._registry is None:
            self._registry = CollectorRegistry()
            self._registry.register(self)
            ProcessCollector(registry=self._registry)
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _metric(family: Family, states: Sequence[MeterState]) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415  # see above

    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.text, labels=("module_id", *family.labels))
    for state in states:
        for labels, number in family.numbers(state):
            metric.add_metric((state.module_id, *labels), number)
    return metric


def _durations(states: Sequence[MeterState]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415  # see above

    edges = [*(str(edge_s) for edge_s in BUCKETS_S), "+Inf"]
    metric = HistogramMetricFamily(*DURATION, labels=("module_id", "request"))
    for state in states:
        for request, counts, sum_s in state.durations:
            buckets = list(zip(edges, accumulate(counts), strict=True))
            metric.add_metric((state.module_id, request), buckets, sum_s)
    return metric
