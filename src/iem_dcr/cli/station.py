"""The stations of the command line: one for people, one that writes a JSON object a line.

Both are told of everything in a session, by the driver what a station is told and by the session what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from iem_dcr.cli import render
from iem_dcr.cli.terminal import tell, warnings_are_logged
from iem_dcr.errors import printable
from iem_dcr.ocmf import Outcome, Verification
from iem_dcr.ocmf.examination import examine
from iem_dcr.ocmf.rules import Severity
from iem_dcr.powermeter import TransactionRequestStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from decimal import Decimal

    from rich.console import Console

    from iem_dcr.cli.display import Display
    from iem_dcr.cli.terminal import Output
    from iem_dcr.driver import KeptReceipt
    from iem_dcr.ocmf import Receipt
    from iem_dcr.powermeter import (
        Powermeter,
        StationError,
        TransactionReq,
        TransactionStartResponse,
        TransactionStopResponse,
    )

VERIFIED = {Outcome.VALID: True, Outcome.INVALID: False, Outcome.NOT_CHECKED: None}


class SessionStation(ABC):
    """A station that watches one session.

    Attributes:
        live: set at every live value; whoever waits for the next one clears it.
    """

    def __init__(self) -> None:
        self.live = asyncio.Event()

    def publish_powermeter(self, value: Powermeter) -> None:
        """Take a live value."""
        self.take(value)
        self.live.set()

    @abstractmethod
    def take(self, value: Powermeter) -> None:
        """Show a live value."""

    @abstractmethod
    def publish_public_key(self, key: str) -> None:
        """Take the meter's public key."""

    @abstractmethod
    def raise_error(self, error: StationError) -> None:
        """Raise an error."""

    @abstractmethod
    def clear_error(self, error: StationError) -> None:
        """Clear an error."""

    @abstractmethod
    def started(self, request: TransactionReq, response: TransactionStartResponse) -> None:
        """Take the answer to the start."""

    def charging(self) -> AbstractContextManager[Callable[[float], None]]:
        """Enter for as long as the transaction runs; gives what is to be told how many seconds have passed."""
        return contextlib.nullcontext(lambda _: None)

    def ending(self) -> None:  # noqa: B027  most have nothing to say here
        """Take note that the transaction is being ended."""

    @abstractmethod
    def stopped(self, response: TransactionStopResponse) -> None:
        """Take the answer to the stop."""

    @abstractmethod
    def receipt(self, receipt: Receipt, verification: Verification) -> None:
        """Take the session's receipt and what its check said."""

    @abstractmethod
    def other_receipt(self, kept: KeptReceipt) -> None:
        """Take a receipt that is not the answer to the stop: of a transaction that was ended first, for one."""


class JsonStation(SessionStation):
    """Writes events, one JSON object a line. Values are what a station would be given."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def take(self, value: Powermeter) -> None:
        """Write ``powermeter``."""
        self._output.line({"event": "powermeter", "value": value.to_json()})

    def publish_public_key(self, key: str) -> None:
        """Write ``public_key_ocmf``."""
        self._output.line({"event": "public_key_ocmf", "value": key})

    def raise_error(self, error: StationError) -> None:
        """Write ``error_raised``."""
        self._error("error_raised", error)

    def clear_error(self, error: StationError) -> None:
        """Write ``error_cleared``."""
        self._error("error_cleared", error)

    def started(self, request: TransactionReq, response: TransactionStartResponse) -> None:  # noqa: ARG002
        """Write ``start_transaction``."""
        self._output.line({"event": "start_transaction", "response": response.to_json()})

    def stopped(self, response: TransactionStopResponse) -> None:
        """Write ``stop_transaction``."""
        self._output.line({"event": "stop_transaction", "response": response.to_json()})

    def receipt(self, receipt: Receipt, verification: Verification) -> None:
        """Write ``receipt``."""
        self._receipt(receipt, verification.outcome)

    def other_receipt(self, kept: KeptReceipt) -> None:
        """Write ``receipt``: the meter itself will give only the last one."""
        self._receipt(kept.receipt, kept.outcome or Outcome.NOT_CHECKED)

    def _receipt(self, receipt: Receipt, outcome: Outcome) -> None:
        accepted = VERIFIED[outcome] and not any(found.severity is Severity.ERROR for found in examine(receipt))
        written = {"verified": VERIFIED[outcome], "accepted": accepted, "ocmf": receipt.text}
        self._output.line({"event": "receipt", **written})

    def _error(self, event: str, error: StationError) -> None:
        self._output.line({"event": event, "type": error.type, "sub_type": error.sub_type, "message": error.message})


class HumanStation(SessionStation):
    """Tells a person, on a console, what happens."""

    def __init__(self, console: Console, display: Display) -> None:
        """``display`` shows the live values while the transaction runs."""
        super().__init__()
        self._console = console
        self._display = display
        self._import_wh: Decimal | None = None

    def take(self, value: Powermeter) -> None:
        """Show the first value in a line; the others are for the display."""
        if self._import_wh is None:
            render.say(self._console, f"First live value: {render.value_line(value).lstrip()}")
        self._import_wh = value.energy_wh_import
        self._display.take(value)

    def publish_public_key(self, key: str) -> None:
        """Nothing to say: the receipt's check says what it is good for."""

    def raise_error(self, error: StationError) -> None:
        """Say it."""
        tell(f"Error raised at the station: {error.type}, {error.sub_type}: {printable(error.message)}")

    def clear_error(self, error: StationError) -> None:
        """Say it."""
        tell(f"Error cleared at the station: {error.type}, {error.sub_type}")

    def started(self, request: TransactionReq, response: TransactionStartResponse) -> None:
        """Say whether it began."""
        if response.status is TransactionRequestStatus.OK:
            ID = printable(request.identification_data)
            render.say(self._console, f"Transaction {printable(request.transaction_id)} began for user {ID}")
            self._display.begin(self._import_wh)
        else:
            tell(f"Error: the transaction did not begin ({response.status.value}){_reason(response.error)}")

    def charging(self) -> AbstractContextManager[Callable[[float], None]]:
        """Show the live values."""
        return self._display.shown()

    def ending(self) -> None:
        """Say it."""
        self._console.print("Ending the transaction and waiting for the signature ...")

    def stopped(self, response: TransactionStopResponse) -> None:
        """Say it if there is no receipt."""
        if response.status is not TransactionRequestStatus.OK:
            tell(f"Error: the transaction has no receipt{_reason(response.error)}")

    def receipt(self, receipt: Receipt, verification: Verification) -> None:
        """Print it."""
        self._console.print()
        render.print_receipt(self._console, receipt, verification)

    def other_receipt(self, kept: KeptReceipt) -> None:
        """Print it, and say that it is another's."""
        outcome = kept.outcome or Outcome.NOT_CHECKED
        words = {
            Outcome.VALID: "the signature matches the data and the key",
            Outcome.INVALID: "the signature does not match the data and the key",
            Outcome.NOT_CHECKED: "without a key, or not asked for",
        }
        self._console.print("\nThe receipt of a transaction that was ended before this one's:")
        render.print_receipt(self._console, kept.receipt, Verification(outcome, words[outcome]))
        self._console.print()


def _reason(why: str) -> str:
    """Return a reason to put behind a message, unless the driver's log has just said it."""
    return "" if warnings_are_logged() else f": {printable(why, limit=400)}"
