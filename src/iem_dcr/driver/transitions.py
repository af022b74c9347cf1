"""What becomes of a transaction in the ledger: every state, every event, and the one table that joins them.

Theory. A B that may have been acted on is an entry of its own. It is UNCERTAIN until its answer: 2xx makes it OPEN, a
refusal leaves no entry. 2xx to E says that nothing runs now, so what was open is ENDED; whether anything had run,
only a receipt tells. 2xx to another B says that no earlier one runs: what was open or uncertain is LOST. A new
receipt of ours closes an entry, from any state in which it may have been acted on, LOST too: evidence that comes late
is still evidence. It is certain that no receipt comes when E was answered and nothing ran for a while: then the entry
is LOST. A live value moves an entry in one case only: something is shown running so long after an accepted E that no
delay explains it. Then a B without an answer was acted on since, or another meter has answered E, and E is due again.

REFUSED is the entry of a start that failed with none of its B possibly acted on. CLOSED and REFUSED are final. An
event that the table does not have changes nothing.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class State(Enum):
    """What is known of a transaction."""

    REFUSED = auto()
    UNCERTAIN = auto()
    OPEN = auto()
    ENDED = auto()
    CLOSED = auto()
    LOST = auto()


class Event(Enum):
    """Evidence about a transaction."""

    BEGIN_ACCEPTED = auto()
    OTHER_BEGIN_ACCEPTED = auto()
    END_ACCEPTED = auto()
    RUNS_AFTER_END = auto()
    RECEIPT = auto()
    NO_RECEIPT_COMES = auto()


TABLE: Final[dict[State, dict[Event, State]]] = {
    State.REFUSED: {},
    State.UNCERTAIN: {
        Event.BEGIN_ACCEPTED: State.OPEN,
        Event.OTHER_BEGIN_ACCEPTED: State.LOST,
        Event.END_ACCEPTED: State.ENDED,
        Event.RECEIPT: State.CLOSED,
        Event.NO_RECEIPT_COMES: State.LOST,
    },
    State.OPEN: {
        Event.OTHER_BEGIN_ACCEPTED: State.LOST,
        Event.END_ACCEPTED: State.ENDED,
        Event.RECEIPT: State.CLOSED,
        Event.NO_RECEIPT_COMES: State.LOST,
    },
    State.ENDED: {
        Event.RUNS_AFTER_END: State.UNCERTAIN,
        Event.RECEIPT: State.CLOSED,
        Event.NO_RECEIPT_COMES: State.LOST,
    },
    State.CLOSED: {},
    State.LOST: {Event.RECEIPT: State.CLOSED},
}

RUNNING: Final = (State.UNCERTAIN, State.OPEN)
"""States in which the transaction may run: E has something to end."""
AWAITED: Final = (State.UNCERTAIN, State.OPEN, State.ENDED)
"""States in which a receipt is still to come."""


def after(state: State, event: Event) -> State:
    """Return the state after an event."""
    return TABLE[state].get(event, state)
