"""What an answer of the meter means for a transaction, and what to do next. Nothing but decisions is in this file.

The theory
==========

A transaction is two conversations, one that begins it and one that ends it. In each, the driver does one thing at a
time and learns what came of it; `TABLE` says for every state and every event what follows. An event a state does not
know raises `ImpossibleEventError` and changes nothing.

**What can come of a request.** It is ACCEPTED, or REFUSED (the meter says it did not act), or UNSENT (it certainly did
not arrive), or LOST: it may have been acted on or not, because the answer is missing or makes no sense. A LOST request
is never simply sent again. The meter knows what it did, so it is looked at, after a short pause: what lost an answer
now may lose the next one, and a meter that is slow to act shall have acted.

**What a look shows.** RUNNING: a transaction is active. RUNNING_BARE: one is active although CT is empty, so the meter
has been power-cycled since it was set up. IDLE: none is active. BARE: none is active and CT is empty. UNFIT: none that
matters is active and the meter may not begin one (it holds another CI, or is in error). UNREADABLE: it could not be
looked at.

**To begin**: look, assign the user, send B.

* Assigning twice does no harm as long as nothing runs: after a LOST assignment, look, and assign again once nothing
  runs.
* B is different: a second one that is acted on would be a second transaction, and one that is acted on unseen would
  run without the station's knowing. After a LOST B the state decides. RUNNING: it was acted on. IDLE: look once more,
  a little later, because a slow meter may act after the first look; only when both looks show nothing is B sent again.
  From then on even a refusal proves nothing, for the first B may be why the second is refused: look again.
* A power cycle at any point (BARE) takes CT, CI, clock and user with it, and the whole sequence begins anew. A B that
  was in doubt stays a transaction of its own: the meter may have signed it, and another B is another transaction.
* When time runs out while B is in doubt, the station is told that the start failed, and the transaction may run all
  the same. The state DOUBTFUL obliges the driver to end whatever it sees running later.

**To end** what was seen running: send E, fetch the receipt.

* E LOST, REFUSED or UNSENT: look. IDLE: ended. RUNNING: send it again. E needs no second look, because a second E that
  finds nothing running changes nothing.
* The last refusal is followed by one more look: a refusal can be the answer to an E whose twin was acted on.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from iem_dcr.errors import IemDcrError

if TYPE_CHECKING:
    from collections.abc import Mapping


class ImpossibleEventError(IemDcrError):
    """An event was fed to a state in which it cannot happen: a mistake in the driver itself."""


class State(Enum):
    """Where a conversation stands."""

    LOOKING = auto()
    ENDING_OTHER = auto()
    INITIALISING = auto()
    ASSIGNING = auto()
    BEGINNING = auto()
    BEGIN_REFUSED = auto()
    DOUBT = auto()
    DOUBT_TWICE = auto()
    ASSIGNING_AGAIN = auto()
    BEGINNING_AGAIN = auto()
    DOUBT_LAST = auto()
    BEGUN = auto()
    NOT_BEGUN = auto()
    UNFIT = auto()
    DOUBTFUL = auto()

    ENDING = auto()
    END_UNSURE = auto()
    END_LAST_LOOK = auto()
    ENDED = auto()
    NOT_ENDED = auto()


class Event(Enum):
    """What came of the last thing done."""

    ACCEPTED = auto()
    REFUSED = auto()
    REFUSED_LAST = auto()
    UNSENT = auto()
    LOST = auto()

    IDLE = auto()
    RUNNING = auto()
    RUNNING_BARE = auto()
    BARE = auto()
    UNFIT = auto()
    UNREADABLE = auto()

    DONE = auto()
    NOT_DONE = auto()
    GIVE_UP = auto()


class Do(Enum):
    """What to do next. The last four end a conversation."""

    LOOK = auto()
    PAUSE_AND_LOOK = auto()
    WAIT_AND_LOOK = auto()
    END_OTHER = auto()
    INITIALISE = auto()
    ASSIGN = auto()
    BEGIN = auto()
    END = auto()

    SAY_BEGUN = auto()
    SAY_NOT_BEGUN = auto()
    FETCH = auto()
    SAY_NOT_ENDED = auto()


_S, _E, _D = State, Event, Do
Step = tuple[State, Do]

_ANEW = {
    _E.RUNNING_BARE: (_S.ENDING_OTHER, _D.END_OTHER),
    _E.BARE: (_S.INITIALISING, _D.INITIALISE),
}
_FAILED: Step = (_S.NOT_BEGUN, _D.SAY_NOT_BEGUN)
_IN_DOUBT: Step = (_S.DOUBTFUL, _D.SAY_NOT_BEGUN)
_STILL_IN_DOUBT = {
    _E.REFUSED: (_S.DOUBT, _D.PAUSE_AND_LOOK),
    _E.REFUSED_LAST: (_S.DOUBT_LAST, _D.LOOK),
    _E.UNSENT: (_S.DOUBT, _D.PAUSE_AND_LOOK),
    _E.LOST: (_S.DOUBT, _D.PAUSE_AND_LOOK),
    _E.GIVE_UP: _IN_DOUBT,
}
_STILL_RUNS: Step = (_S.NOT_ENDED, _D.SAY_NOT_ENDED)

TABLE: Mapping[State, Mapping[Event, Step]] = {
    # --- to begin ---
    _S.LOOKING: {
        _E.IDLE: (_S.ASSIGNING, _D.ASSIGN),
        _E.RUNNING: (_S.ENDING_OTHER, _D.END_OTHER),
        **_ANEW,
        _E.UNFIT: (_S.UNFIT, _D.SAY_NOT_BEGUN),
        _E.UNREADABLE: (_S.LOOKING, _D.PAUSE_AND_LOOK),
        _E.GIVE_UP: _FAILED,
    },
    _S.ENDING_OTHER: {
        _E.DONE: (_S.LOOKING, _D.LOOK),
        _E.NOT_DONE: _FAILED,
        _E.GIVE_UP: _FAILED,
    },
    _S.INITIALISING: {
        _E.DONE: (_S.LOOKING, _D.LOOK),
        _E.NOT_DONE: (_S.LOOKING, _D.PAUSE_AND_LOOK),
        _E.GIVE_UP: _FAILED,
    },
    _S.ASSIGNING: {
        _E.ACCEPTED: (_S.BEGINNING, _D.BEGIN),
        _E.REFUSED: (_S.LOOKING, _D.PAUSE_AND_LOOK),
        _E.REFUSED_LAST: _FAILED,
        _E.UNSENT: (_S.LOOKING, _D.PAUSE_AND_LOOK),
        _E.LOST: (_S.LOOKING, _D.PAUSE_AND_LOOK),
        _E.GIVE_UP: _FAILED,
    },
    _S.BEGINNING: {
        _E.ACCEPTED: (_S.BEGUN, _D.SAY_BEGUN),
        _E.REFUSED: (_S.BEGIN_REFUSED, _D.PAUSE_AND_LOOK),
        _E.REFUSED_LAST: _FAILED,
        _E.UNSENT: (_S.BEGIN_REFUSED, _D.PAUSE_AND_LOOK),
        _E.LOST: (_S.DOUBT, _D.PAUSE_AND_LOOK),
        _E.GIVE_UP: _FAILED,
    },
    _S.BEGIN_REFUSED: {
        _E.IDLE: (_S.BEGINNING, _D.BEGIN),
        _E.RUNNING: (_S.ENDING_OTHER, _D.END_OTHER),
        **_ANEW,
        _E.UNFIT: (_S.UNFIT, _D.SAY_NOT_BEGUN),
        _E.UNREADABLE: (_S.BEGIN_REFUSED, _D.PAUSE_AND_LOOK),
        _E.GIVE_UP: _FAILED,
    },
    _S.DOUBT: {
        _E.RUNNING: (_S.BEGUN, _D.SAY_BEGUN),
        _E.IDLE: (_S.DOUBT_TWICE, _D.WAIT_AND_LOOK),
        **_ANEW,
        _E.UNFIT: _IN_DOUBT,
        _E.UNREADABLE: (_S.DOUBT, _D.PAUSE_AND_LOOK),
        _E.GIVE_UP: _IN_DOUBT,
    },
    _S.DOUBT_TWICE: {
        _E.RUNNING: (_S.BEGUN, _D.SAY_BEGUN),
        # A B that was acted on, and is over already, has used the assignment up.
        _E.IDLE: (_S.ASSIGNING_AGAIN, _D.ASSIGN),
        **_ANEW,
        _E.UNFIT: _IN_DOUBT,
        _E.UNREADABLE: (_S.DOUBT, _D.PAUSE_AND_LOOK),
        _E.GIVE_UP: _IN_DOUBT,
    },
    _S.ASSIGNING_AGAIN: {
        _E.ACCEPTED: (_S.BEGINNING_AGAIN, _D.BEGIN),
        **_STILL_IN_DOUBT,
    },
    _S.BEGINNING_AGAIN: {
        _E.ACCEPTED: (_S.BEGUN, _D.SAY_BEGUN),
        **_STILL_IN_DOUBT,
    },
    _S.DOUBT_LAST: {
        _E.RUNNING: (_S.BEGUN, _D.SAY_BEGUN),
        _E.RUNNING_BARE: (_S.ENDING_OTHER, _D.END_OTHER),
        _E.IDLE: _IN_DOUBT,
        _E.BARE: _IN_DOUBT,
        _E.UNFIT: _IN_DOUBT,
        _E.UNREADABLE: (_S.DOUBT_LAST, _D.PAUSE_AND_LOOK),
        _E.GIVE_UP: _IN_DOUBT,
    },
    # --- to end ---
    _S.ENDING: {
        _E.ACCEPTED: (_S.ENDED, _D.FETCH),
        _E.REFUSED: (_S.END_UNSURE, _D.PAUSE_AND_LOOK),
        _E.REFUSED_LAST: (_S.END_LAST_LOOK, _D.LOOK),
        _E.UNSENT: (_S.END_UNSURE, _D.PAUSE_AND_LOOK),
        _E.LOST: (_S.END_UNSURE, _D.PAUSE_AND_LOOK),
        _E.GIVE_UP: _STILL_RUNS,
    },
    _S.END_UNSURE: {
        _E.RUNNING: (_S.ENDING, _D.END),
        _E.IDLE: (_S.ENDED, _D.FETCH),
        _E.UNREADABLE: (_S.END_UNSURE, _D.PAUSE_AND_LOOK),
        _E.GIVE_UP: _STILL_RUNS,
    },
    _S.END_LAST_LOOK: {
        _E.RUNNING: _STILL_RUNS,
        _E.IDLE: (_S.ENDED, _D.FETCH),
        _E.UNREADABLE: (_S.END_LAST_LOOK, _D.PAUSE_AND_LOOK),
        _E.GIVE_UP: _STILL_RUNS,
    },
    # --- the ends of a conversation ---
    _S.BEGUN: {},
    _S.NOT_BEGUN: {},
    _S.UNFIT: {},
    _S.DOUBTFUL: {},
    _S.ENDED: {},
    _S.NOT_ENDED: {},
}


class Conversation:
    """One walk through `TABLE`.

    Attributes:
        state: where it stands; LOOKING to begin a transaction, ENDING to end one that was seen running.
    """

    def __init__(self, state: State) -> None:
        self.state = state

    def process(self, event: Event) -> Do:
        """Take what came of the last thing done, and return what to do next.

        Raises:
            ImpossibleEventError: the state does not know this event; the state is left as it was.
        """
        step = TABLE[self.state].get(event)
        if step is None:
            raise ImpossibleEventError(f"{event.name} cannot happen in {self.state.name}")
        self.state, what = step
        return what


def look_to_begin(*, state: State, running: bool, configured: bool, fit: bool) -> Event:
    """Return what a look means to one who begins.

    Args:
        state: of the conversation. While B is in doubt, a transaction that runs counts before anything else.
        running: XT.
        configured: CT is not empty.
        fit: the meter may begin a transaction for this request.
    """
    in_doubt = state in (State.DOUBT, State.DOUBT_TWICE, State.DOUBT_LAST)
    if not fit and not (running and in_doubt):
        return Event.UNFIT
    if running:
        return Event.RUNNING if configured else Event.RUNNING_BARE
    return Event.IDLE if configured else Event.BARE
