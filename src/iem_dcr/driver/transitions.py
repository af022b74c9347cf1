"""The states of a transaction in the ledger, the events that change them, and the one table that joins the two.

Theory. Each B that the meter may have acted on is an entry of its own. It is UNCERTAIN until its answer: 2xx makes it
OPEN, and a refusal removes it. 2xx to E says that nothing runs now, so an open or uncertain entry is ENDED. Only a
receipt tells whether anything had run. 2xx to another B says that no earlier transaction runs, so an open or uncertain
entry is LOST. A new receipt of ours closes an entry from any state in which the meter may have acted on its B. This
includes LOST, because late evidence is still evidence. If E was answered and nothing ran for a while, it is certain
that no receipt comes, and the entry is LOST. A live value moves an entry in one case only: it shows a transaction so
long after an accepted E that no delay explains it. Then the meter acted on an unanswered B since, or another meter
answered E. E is due again.

REFUSED is the entry of a start that failed where the meter cannot have acted on any B. CLOSED and REFUSED are final.
An event that the table does not have for a state changes nothing.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class State(Enum):
    """What the driver knows of a transaction."""

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
"""States in which the transaction may run, so that E may end it."""
AWAITED: Final = (State.UNCERTAIN, State.OPEN, State.ENDED)
"""States in which a receipt may still come."""


def after(state: State, event: Event) -> State:
    """Return the state after an event."""
    return TABLE[state].get(event, state)
