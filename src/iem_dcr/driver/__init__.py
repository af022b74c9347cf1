"""Knows how to treat a meter: initialisation, live values, clock, transactions, faults.

Its way in is `MeterDriver`; towards a charging station it speaks through a `Station`, towards whoever keeps receipts
through a `ReceiptSink`.
"""

from iem_dcr.driver.driver import MeterDriver
from iem_dcr.driver.station import KeptReceipt, Observer, ReceiptJournal, ReceiptSink, Station

__all__ = ["KeptReceipt", "MeterDriver", "Observer", "ReceiptJournal", "ReceiptSink", "Station"]
