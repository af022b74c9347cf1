"""What is known of one station's run: the same that the simulation's world knows, for the same invariants."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from endurance import invariants
from endurance.process import Serving
from endurance.stage import Call, Filed
from endurance.unit import Truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from iem_dcr.journal import Entry


@dataclass(slots=True, eq=False)
class Begun(Truth):
    """A transaction that a meter began, or may have begun.

    Attributes:
        card: that was set for it.
        is_certain: its B was answered.
    """

    card: str = ""
    is_certain: bool = True


@dataclass(slots=True)
class Life:
    """One process, from its start to its end.

    Attributes:
        number: counts the processes of a station.
        began_s: when it was started.
        ended_s: when it was killed; None while it lives.
        back_s: how long it took until its first value; None where nobody was there to hear it, or the meter was off.
        failures: what should not be in its log.
    """

    number: int
    began_s: float
    ended_s: float | None = None
    back_s: float | None = None
    failures: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Meter:
    """A meter, and the transactions it really began.

    Attributes:
        serial: its MS.
        truths: the transactions, in order.
        meddled_s: what ended when is not known here.
    """

    serial: str
    truths: list[Begun] = field(default_factory=list)
    meddled_s: None = None

    @property
    def signed(self) -> list[Begun]:
        """Those that are signed."""
        return [truth for truth in self.truths if truth.text is not None]

    def learn(self, state: dict[str, Any], begun_as: Callable[[str, int], Begun]) -> None:
        """Take from the simulator's state what was signed, and drop what never was.

        Tuples come in the order of the transactions, for there is one at a time, and name the card, of which every
        start has its own; ``begun_as`` makes one that was not seen to begin.
        """
        place = 0
        for text in (record["text"] for record in state["signed"]):
            card = str(json.loads(text.split("|")[1])["ID"])
            found = next(
                (index for index in range(place, len(self.truths)) if _is_that(self.truths[index], card, text)), None
            )
            if found is None:
                self.truths.insert(place, begun_as(card, place))
                found = place
            self.truths[found].text, place = text, found + 1
        running = self.running(state)
        for truth in self.truths:
            if truth is not running and truth.closed_s is None:
                truth.closed_s = truth.begun_s
        self.truths = [truth for truth in self.truths if truth.is_certain or truth.text or truth is running]

    def running(self, state: dict[str, Any]) -> Begun | None:
        """Return the transaction that runs, by the simulator's state."""
        return self.truths[-1] if state["running"] and self.truths else None


def _card_in(text: str | None) -> str:
    """Return counter and card of a tuple."""
    if text is None:
        return ""
    fields = json.loads(text.split("|")[1])
    return f"{fields['PG']} of card {fields['ID']!r}"


def _is_that(truth: Begun, card: str, text: str) -> bool:
    return truth.card == card and not truth.lost and truth.text in (None, text)


class Account:
    """One station's run, as `invariants` looks at it."""

    def __init__(self, serial: str, *, journal: bool) -> None:
        self.plan = _Plan(journal)
        self.host = _Host()
        self.units = [Meter(serial)]
        self.calls: list[Call] = []
        self.processes: list[Life] = []
        self.energies: list[tuple[str, float]] = []
        self.checks: set[bytes] = set()
        self.filed: list[Filed] | None = None
        self.counts: Counter[str] = Counter()
        self.dead_letters: list[str] = []
        self.mistakes: list[str] = []
        self.errors: set[tuple[str, str]] = set()
        self.broken_early: list[str] = []
        self.disk_troubled: list[list[float]] = []
        self.tasks_left: list[int] = []
        self.memory: list[int] = []
        self.leftover = 0
        self.running_after_calm: Begun | None = None
        self.running_at_end: Begun | None = None
        self.noted: set[Truth] = set()
        self.troubles: list[str] = []

    @property
    def unit(self) -> Meter:
        """The meter."""
        return self.units[-1]

    def begun(self, card: str, at_s: float, process: int, *, is_certain: bool) -> None:
        """Take note of a transaction that the meter began, or may have begun."""
        truths = self.unit.truths
        owner = self._owner(card, process)
        truths.append(Begun(self.unit.serial, len(truths), owner, at_s, card=card, is_certain=is_certain))

    def learn(self, state: dict[str, Any]) -> None:
        """Take from the simulator's state what was signed in the end."""
        self.unit.learn(state, self._begun_as)

    def _begun_as(self, card: str, place: int) -> Begun:
        call = self._start_with(card)
        at_s = 0.0 if call is None else call.answered_s or call.asked_s or 0.0
        return Begun(self.unit.serial, place, self._owner(card, 0), at_s, at_s, card=card)

    def _owner(self, card: str, process: int) -> Serving | None:
        call = self._start_with(card)
        return None if call is None else Serving(call.transaction_id, call.number, process)

    def _start_with(self, card: str) -> Call | None:
        return next((call for call in self.calls if card and call.request.get("identification_data") == card), None)

    def told(self) -> str:
        """Return what happened, in order, to be read by somebody who looks for a reason."""
        lines = [
            (life.began_s, f"process {life.number} starts, back after {life.back_s or 0:.2f} s")
            for life in self.processes
        ]
        for call in self.calls:
            lines.append(
                (call.asked_s or 0.0, f"call {call.number}: {call.command} {call.transaction_id!r} {call.excused}")
            )
            answer = {**(call.answer or {})}
            answer.pop("signed_meter_value", None)
            if call.answered_s is not None:
                lines.append(
                    (
                        call.answered_s,
                        f"call {call.number} answered by {call.process}: {answer} {_card_in(call.tuple_text)}",
                    )
                )
        for truth in self.unit.truths:
            what = f"{truth.transaction_id!r} (card {truth.card!r}){'' if truth.is_certain else ', its answer lost'}"
            lines.append(
                (truth.begun_s, f"the meter begins {what}: {truth.text and _card_in(truth.text)} lost={truth.lost}")
            )
        return "\n".join(f"{at_s:10.3f}  {line}" for at_s, line in sorted(lines)) + "\n"

    def file(self, entries: Iterable[Entry]) -> None:
        """Take what stands in the journal of this meter."""
        self.filed = [Filed(entry.text, entry.transaction_id) for entry in entries if entry.meter == self.unit.serial]

    def broken(self) -> list[str]:
        """Return every promise that was broken."""
        self.noted = {truth for truth in self.unit.truths if truth.owner is not None}
        return [*invariants.broken(self), *self.troubles]


@dataclass(frozen=True, slots=True)
class _Plan:
    journal: bool


class _Host:
    """This host's clock."""

    def at(self, monotonic_s: float) -> datetime:
        """Return what it says at a time of `time.monotonic`, as it is set now."""
        return datetime.now(UTC) - timedelta(seconds=time.monotonic() - monotonic_s)
