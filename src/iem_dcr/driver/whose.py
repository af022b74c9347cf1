"""Whose receipt a tuple is, and what a stop is entitled to. Nothing but decisions is in this file.

Whose a tuple is, its pagination decides (`judge`): the meter counts every record it signs, so the tuple that was there
before B is known by its PG, and another PG is another record. By size PGs are compared for one thing only: somebody
else's ID in a record that is not the next one makes it another's. Where no earlier PG could be had, ID and time of
beginning decide; and where a tuple agrees with several transactions, the nearest beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Facts:
    """What a tuple says of itself: PG, ID, MS, TM of the reading that begins it and of the last one. None: nothing."""

    PG: str | None
    ID: str | None
    MS: str | None
    began: datetime | None
    ended: datetime | None


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of the transaction whose receipt is looked for.

    Attributes:
        PG_before: PG of the last tuple before B; "" when the meter had none; None when that is not known.
        ID: the id that was assigned, or None for a transaction that this process did not begin.
        MS: serial of the meter it was begun on, or None.
        began: the meter's own time shortly before B, or None.
        ended: the meter's own time shortly before E, or None; used only where ID is None.
    """

    PG_before: str | None
    ID: str | None = None
    MS: str | None = None
    began: datetime | None = None
    ended: datetime | None = None


class Judgement(Enum):
    """Whether a tuple is the receipt that is looked for.

    * OURS: it is.
    * DISAGREES: it may be.
    * OTHER: it is not.
    * LATER: it is not, and was signed after it: the meter, which keeps the last one only, has it no more.
    """

    OURS = auto()
    DISAGREES = auto()
    OTHER = auto()
    LATER = auto()


MOST_DIGITS = 18
"""Of a pagination counter; what is longer is none."""

ID_OF_ANOTHER = "ID is somebody else's"
"""Not even the beginning of the one that was assigned; or none at all."""


def judge(
    facts: Facts, expected: Expected, *, tolerance: timedelta, early: timedelta | None = None
) -> tuple[Judgement, tuple[str, ...]]:
    """Decide whether a tuple is the receipt looked for.

    Args:
        facts: what it says.
        expected: what is known.
        tolerance: by how much its begin may differ, for the clock may have been set since.
        early: by how much it may have begun earlier than the clock was read for it; ``tolerance`` if it is not given.

    Returns:
        OURS, OTHER, or DISAGREES with what disagrees: by its PG it is ours, and something else in it says otherwise.
        Somebody else's ID in a record that is not the next one is LATER: no meter's own way with IDs makes a gap.
    """
    earlier = tolerance if early is None else early
    if expected.PG_before is not None and facts.PG:
        if expected.PG_before == facts.PG:
            return Judgement.OTHER, ()
        why = _disagreements(facts, expected, -earlier, tolerance)
        if ID_OF_ANOTHER in why and _is_later_than_next(facts.PG, expected.PG_before):
            return Judgement.LATER, ()
        return (Judgement.DISAGREES if why else Judgement.OURS), why
    if expected.ID is None:
        is_ours = _ended_since(facts.ended, expected.ended)
    else:
        is_ours = facts.ID == expected.ID and _not_before(facts.began, expected.began, earlier)
    return (Judgement.OURS if is_ours else Judgement.OTHER), ()


def is_strange(why: tuple[str, ...]) -> bool:
    """Tell whether what disagrees is more than a clock that was set: the right record may still be signed."""
    return len(why) > 1 or ID_OF_ANOTHER in why


def is_anothers(why: tuple[str, ...]) -> bool:
    """Tell whether what disagrees makes a record another transaction's when no better one has followed.

    An ID alone may be a meter's own way with IDs; with a time or a meter that are not ours either, it is none.
    """
    return len(why) > 1 and ID_OF_ANOTHER in why


def _is_later_than_next(PG: str, PG_before: str) -> bool:
    """Tell whether a record was signed between two: the counter rises by one with each, from T1 on (OCMF, field PG)."""
    if PG_before and PG[:1] != PG_before[:1]:
        return False
    count, count_before = _counted(PG), _counted(PG_before) if PG_before else 0
    return count is not None and count_before is not None and count > count_before + 1


def _counted(PG: str) -> int | None:
    digits = PG[1:]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS else None


def began_apart_s(facts: Facts, expected: Expected) -> float:
    """Return how many seconds a tuple began before or after what is expected; infinity where that is not known."""
    if facts.began is None or expected.began is None:
        return float("inf")
    return abs((facts.began - expected.began).total_seconds())


def _not_before(time: datetime | None, limit: datetime | None, tolerance: timedelta) -> bool:
    return time is not None and limit is not None and time - limit >= -tolerance


def _ended_since(time: datetime | None, limit: datetime | None) -> bool:
    """Tell whether a tuple ended after a moment; both are of the meter's clock, and tuples have whole seconds.

    What ended before E was sent, however little, is the transaction before.
    """
    return time is not None and limit is not None and time >= limit.replace(microsecond=0)


def _disagreements(facts: Facts, expected: Expected, least: timedelta, most: timedelta) -> tuple[str, ...]:
    found = []
    if expected.ID is not None and facts.ID != expected.ID:
        is_cut = bool(facts.ID) and expected.ID.startswith(facts.ID or "")
        found.append("ID is another" if is_cut else ID_OF_ANOTHER)
    if expected.MS is not None and facts.MS is not None and facts.MS != expected.MS:
        found.append(f"MS is {facts.MS}, not {expected.MS}")
    if expected.began is not None and facts.began is not None and not least <= facts.began - expected.began <= most:
        found.append(f"it began {facts.began.isoformat()}, not about {expected.began.isoformat()}")
    return tuple(found)


class Claim(Enum):
    """What a stop is entitled to that has not had its receipt yet.

    * END: what runs is to be ended, and its receipt is this stop's.
    * END_UNCLAIMED: what runs is to be ended, and its receipt is not this stop's.
    * AWAIT: nothing but the receipt of the transaction that this process began will do.
    * LAST: the last tuple of the meter.
    * NOTHING: there is no signed transaction for this id.
    * ANOTHER_RUNS: a transaction the station began under another id runs; it goes on.
    """

    END = auto()
    END_UNCLAIMED = auto()
    AWAIT = auto()
    LAST = auto()
    NOTHING = auto()
    ANOTHER_RUNS = auto()


def claim(
    transaction_id: str, *, running: bool, begun: str | None, older: Collection[str], refused: Collection[str]
) -> Claim:
    """Decide what a stop gets, so that nobody gets another's receipt.

    Args:
        transaction_id: of the stop; "" means: whatever runs.
        running: the meter has an active transaction.
        begun: id of the transaction this process began last and has not had the receipt of, or None.
        older: ids of those it began before that one and has not had the receipt of either.
        refused: ids whose start this process refused.
    """
    if begun is not None and transaction_id in ("", begun):
        return Claim.END if running else Claim.AWAIT
    if transaction_id and transaction_id in older:
        return Claim.AWAIT
    is_refused = bool(transaction_id) and transaction_id in refused
    if begun is not None:
        return Claim.ANOTHER_RUNS if running and not is_refused else Claim.NOTHING
    if is_refused:
        return Claim.END_UNCLAIMED if running else Claim.NOTHING
    return Claim.END if running else Claim.LAST
