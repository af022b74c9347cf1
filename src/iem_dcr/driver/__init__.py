"""The driver of one meter. `MeterDriver` drives the meter for a `Station`."""

from __future__ import annotations

from iem_dcr.driver.driver import MeterDriver
from iem_dcr.driver.ports import (
    FiledReceipt,
    Journal,
    KeptReceipt,
    NotedEntry,
    Observer,
    Recalled,
    ReceiptSink,
    Station,
)
from iem_dcr.driver.receipt_keeper import MemorySink

__all__ = [
    "FiledReceipt",
    "Journal",
    "KeptReceipt",
    "MemorySink",
    "MeterDriver",
    "NotedEntry",
    "Observer",
    "Recalled",
    "ReceiptSink",
    "Station",
]
