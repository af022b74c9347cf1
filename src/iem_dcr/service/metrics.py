"""The metrics of the service for Prometheus: every name, its meaning, and the source of its numbers.

A scrape collects the meters' numbers on the loop, a few meters at a time, and formats the text in a worker thread. So
the metrics of a thousand meters delay no meter. Labels are bounded: no label contains text from a meter, a user's id or
a transaction's id.
"""

from __future__ import annotations

import asyncio
import platform
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from iem_dcr import __version__
from iem_dcr.service.counters import BUCKETS_S, FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from decimal import Decimal

    from prometheus_client.core import Metric

    from iem_dcr.service.observation import Health, ObservedMeter

UP_AGE_S: Final = 5.0
"""A meter whose last live value is older counts as down. A single reading may fail."""
METERS_AT_ONCE: Final = 20
"""After this number of meters other tasks of the loop get their turn."""

_GAUGES: Final = (
    ("iem_dcr_meter_up", "1 while the last live value is at most 5 s old, else 0"),
    ("iem_dcr_meter_info", "Always 1; the meter's address is in the label", "address"),
    ("iem_dcr_value_age_seconds", "Age of the last live value; absent before the first"),
    ("iem_dcr_power_watts", "Power (P)"),
    ("iem_dcr_voltage_volts", "DC voltage (U2)"),
    ("iem_dcr_current_amperes", "Current (I)"),
    ("iem_dcr_transaction_active", "1 while a transaction runs in the meter (XT)"),
    ("iem_dcr_clock_difference_seconds", "How far the meter's clock is ahead of the host's"),
    ("iem_dcr_fault_active", "1 while this fault is active at the station", "fault"),
    ("iem_dcr_duplicate_serial_active", "1 while the meter's serial also answers at another address of the file"),
)
_COUNTERS: Final = (
    ("iem_dcr_import_watthours", "Import register, in Wh as the meter is approved for"),
    ("iem_dcr_export_watthours", "Export register; absent if the meter has none"),
    ("iem_dcr_faults", "Faults that were raised at the station", "fault"),
    ("iem_dcr_transactions_begun", "Transactions that were seen to begin in the meter"),
    ("iem_dcr_transactions_ended", "Transactions that were seen to end in the meter"),
    ("iem_dcr_commands", "The station's starts and stops, by result", "command", "result"),
    ("iem_dcr_receipts", "Delivered receipts, each counted once, by verdict", "verdict"),
    ("iem_dcr_held_registers", "How often a register fell and its previous value was published"),
    ("iem_dcr_frozen_values", "Live values that were not published because nothing in them changed"),
    ("iem_dcr_requests_failed", "Failed requests to the meter, by reason", "reason"),
)
"""For every meter: name (without the suffix ``_total`` of a counter), meaning, labels beside module_id."""


class Metrics:
    """The metrics of the meters of this process.

    Args:
        meters: of the process.
        health: returns the health of the service.
    """

    def __init__(self, meters: Sequence[ObservedMeter], health: Callable[[], Health]) -> None:
        self._meters = meters
        self._health = health
        self._one_at_a_time = asyncio.Lock()

    async def text(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in UTF-8 and their Content-Type, in the format that the header Accept requests."""
        async with self._one_at_a_time:
            scrape = _Scrape(self._health())
            for number, meter in enumerate(self._meters, 1):
                scrape.add(meter)
                if number % METERS_AT_ONCE == 0:
                    await asyncio.sleep(0)
            registry = CollectorRegistry()
            registry.register(scrape)
            ProcessCollector(registry=registry)
            encode, content_type = choose_encoder(accept)
            return await asyncio.to_thread(encode, registry), content_type


class _Scrape(Collector):
    """The metrics of one scrape, filled meter by meter."""

    def __init__(self, health: Health) -> None:
        version = {"version": __version__, "python": platform.python_version()}
        self._build = InfoMetricFamily("iem_dcr_build", "Version of iem-dcr and of Python", value=version)
        self._broker = GaugeMetricFamily(
            "iem_dcr_broker_connected",
            "1 while the service is connected to the broker; absent without a broker",
            value=health.broker_connected,
        )
        self._families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for name, text, *labels in _GAUGES:
            self._families[name] = GaugeMetricFamily(name, text, labels=("module_id", *labels))
        for name, text, *labels in _COUNTERS:
            self._families[name] = CounterMetricFamily(name, text, labels=("module_id", *labels))
        self._durations = HistogramMetricFamily(
            "iem_dcr_request_duration_seconds",
            "Duration of answered requests to the meter",
            labels=("module_id", "request"),
        )

    def collect(self) -> Iterator[Metric]:
        """Yield every metric. The registry calls this."""
        yield from (self._build, self._broker, *self._families.values(), self._durations)

    def add(self, meter: ObservedMeter) -> None:
        """Add the numbers of a meter. Must be called on the loop."""
        status = meter.status()

        def put(name: str, number: Decimal | float | None, *labels: str) -> None:
            if number is not None:
                self._families[name].add_metric((meter.name, *labels), float(number))

        value = status.value if status.age_s is not None and status.age_s <= UP_AGE_S else None
        put("iem_dcr_meter_up", value is not None)
        put("iem_dcr_meter_info", 1, meter.address)
        put("iem_dcr_value_age_seconds", status.age_s)
        put("iem_dcr_duplicate_serial_active", meter.is_duplicate)
        if value is not None:
            put("iem_dcr_power_watts", value.P)
            put("iem_dcr_voltage_volts", value.U2)
            put("iem_dcr_current_amperes", value.I)
            put("iem_dcr_import_watthours", value.import_wh)
            put("iem_dcr_export_watthours", value.export_wh)
            put("iem_dcr_transaction_active", value.XT)
            if status.clock_offset is not None:
                put("iem_dcr_clock_difference_seconds", status.clock_offset.total_seconds())
        for fault in FAULTS:
            put("iem_dcr_fault_active", fault in meter.active_faults, fault)
        put("iem_dcr_held_registers", 0 if meter.driver is None else meter.driver.held_registers)
        put("iem_dcr_frozen_values", 0 if meter.driver is None else meter.driver.frozen_values)
        for (name, *labels), count in meter.counts.items():
            put(name, count, *labels)
        edges = [*map(str, BUCKETS_S), "+Inf"]
        for request, durations in meter.durations.items():
            buckets = list(zip(edges, accumulate(durations.counts), strict=True))
            self._durations.add_metric((meter.name, request), buckets, durations.sum_s)
