"""What has to hold, whatever happens: one function for each promise, with every exception to it in words.

A run (`model.Record`) is judged by what the station was told (`Call`), what the meters really did (`Truth`) and what
stood in the journal when all was over. A promise that is broken is a sentence; `broken` returns all of them.

A disk in trouble, however it fails, excuses one thing only: what it kept unwritten is lost for the journal, and for the
process after this one, if this one is killed before the disk is well again.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from iem_dcr import meter_time
from iem_dcr.driver.driver import SILENT_STOP_S, START_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from endurance.meter import Truth
    from endurance.model import Call, Record

ANSWER_TAKES_S: Final = 1.6
"""How long an answer may be on its way once the driver has given it: EVerest's handler has a margin of a second."""
CLOCK_OFF: Final = timedelta(seconds=10)
"""How far a meter's clock may be off: the driver corrects it from five seconds on, and it shows whole seconds."""
SHOWN_WITHIN_S: Final = 15.0
"""How long a meter may take to show a receipt: it signs for two seconds, closes late, and a node lags."""
MOST_TASKS: Final = 24
MOST_REMEMBERED: Final = 4 * 64 + 8
"""The driver's memories of receipts and ids hold 64 each."""


def broken(world: Record) -> list[str]:
    """Return every promise that was broken, each with where: at the end of a run."""
    promises = (
        each_signed_receipt_is_kept,
        nothing_runs_that_the_station_does_not_know_of,
        what_was_to_be_ended_does_not_run_on,
        the_charger_charges_again_after_all,
        no_error_outlives_its_cause,
    )
    at_the_end = [sentence for promise in promises for sentence in promise(world)]
    return list(dict.fromkeys([*world.broken_early, *broken_so_far(world), *at_the_end]))


def broken_so_far(world: Record) -> list[str]:
    """Return what is broken of the promises that hold at all times, not only when all is calm: after each session."""
    promises = (
        each_receipt_is_its_transactions_own,
        each_receipt_says_what_was_asked_for,
        each_stopped_transaction_has_its_receipt,
        nothing_ends_that_nobody_wanted_ended,
        no_record_is_destroyed,
        every_command_is_answered_once_and_in_time,
        energies_never_fall,
        the_meter_is_never_reported_unreachable_by_word,
        nothing_grows_and_nothing_is_left,
        nothing_fails_that_nobody_expected,
    )
    return [sentence for promise in promises for sentence in promise(world)]


def each_receipt_is_its_transactions_own(world: Record) -> Iterator[str]:
    """Every receipt that is delivered is, byte for byte, what a meter signed for the transaction that was asked for.

    * A stop for an id under which several transactions were begun gets no earlier one than the last that the station
      was told had begun before it asked.
      Where the meter lost the later ones and no journal is kept, a process that was started after them cannot know.
    * A receipt that was delivered for an id is that id's from then on.
    * An id that means nothing to the process has no influence, nor has "": the stop gets the receipt of what it ended,
      or the meter's last one. An id means something to the process that was sent its start, and to those after it that
      find it in the journal.
    """
    judged: set[tuple[str, str]] = set()
    for call in world.calls:
        text = call.tuple_text
        if text is None or (text, call.transaction_id) in judged:
            continue
        judged.add((text, call.transaction_id))
        truth = _truth_of(world, text)
        if truth is None:
            yield f"stop {call.transaction_id!r}: its receipt was never signed by a meter"
        elif why := _why_not_its_own(world, call, truth):
            yield f"stop {call.transaction_id!r} (call {call.number}): {why}"


def each_receipt_says_what_was_asked_for(world: Record) -> Iterator[str]:
    """A receipt shows user, tariff text and connector of a request under its id, and begins at the time of the host.

    * The connector may be empty: a meter whose power failed forgets it. Not where nothing is wrong.
    * The time is looked at where nothing is wrong any more, and only if the host's clock can be trusted.
    """
    for call in world.calls:
        text, starts = call.tuple_text, world.calls_of("start", call.transaction_id)
        truth = _truth_of(world, text)
        if text is None or truth is None or truth.transaction_id != call.transaction_id:
            continue
        payload = json.loads(text.split("|", 2)[1])
        if not any(_shows(payload, start.request, fresh=call.fresh) for start in starts):
            shown = {name: payload[name] for name in ("ID", "TT", "CI")}
            yield f"the receipt of {call.transaction_id!r} shows {shown}, which nobody asked for"
        if call.fresh and world.running_after_calm is None and world.host_is_set_at(truth.begun_s):
            began = meter_time.parse(payload["RD"][0]["TM"]).instant
            off = began - world.host_at(truth.begun_s)
            if abs(off) > CLOCK_OFF:
                yield f"the receipt of {call.transaction_id!r} begins at {began}, {off} off the host's time"


def each_stopped_transaction_has_its_receipt(world: Record) -> Iterator[str]:
    """A stop that is answered OK brings a receipt, which then is in the journal exactly once and under its id.

    * Not before the disk is well: a stop waits half a second for its journal, not for ever.
    * Not where a disk in trouble kept it unwritten and the process was killed then.
    """
    for call in world.calls:
        if call.command != "stop" or not call.ok:
            continue
        text = call.tuple_text
        if text is None:
            yield f"stop {call.transaction_id!r} is OK without a receipt"
            continue
        if world.filed is None or not world.disk_is_well:
            continue
        entries = [entry for entry in world.filed if entry.text == text]
        if len(entries) > 1:
            yield f"the receipt of {call.transaction_id!r} is {len(entries)} times in the journal"
        elif not entries:
            if not _was_dropped(world, call.answered_s):
                yield f"the receipt handed over for {call.transaction_id!r} (call {call.number}) is not in the journal"
        elif (whose := entries[0].transaction_id) != call.transaction_id:
            truth = _truth_of(world, text)
            is_its_own = truth is not None and truth.transaction_id == call.transaction_id and _is_noted(world, truth)
            if is_its_own and not _was_dropped(world, call.answered_s):
                yield f"the receipt of {call.transaction_id!r} is in the journal as that of {whose!r}"


def each_signed_receipt_is_kept(world: Record) -> Iterator[str]:
    """With a journal, every transaction begun for the station has its receipt in it, handed over or not.

    * Not where the meter was exchanged before anybody could read it.
    * Not where a disk in trouble kept it unwritten and the process was killed then.
    * Not where a stranger's transaction put its own tuple in the place of it: the meter shows its last one only.
    """
    if world.filed is None:
        return
    texts = {entry.text for entry in world.filed}
    for meter in world.meters:
        signed = meter.signed_truths
        for truth, following in zip(signed, [*signed[1:], None], strict=False):
            if truth.owner is None or truth.text in texts:
                continue
            was_covered = following is not None and following.owner is None
            was_exchanged = meter is not world.meter and following is None
            if not (was_covered or was_exchanged or _was_dropped(world, truth.closed_s)):
                which = f"{truth.transaction_id!r} (transaction {truth.number} of {truth.serial})"
                yield f"the receipt of {which} is not in the journal"


def nothing_runs_that_the_station_does_not_know_of(world: Record) -> Iterator[str]:
    """What runs after a calm was begun for the station, which was told so.

    * A process that was started after it began cannot know that the station does not know of it: it is ended by the
      next start or stop, which is looked at as well.
    * A stranger's transaction goes on until the next start or stop.
    """
    truth = world.running_after_calm
    if truth is not None and truth.owner is not None and truth.process_is(world.processes[-1].number):
        starts = world.calls_of("start", truth.owner.transaction_id)
        told = max(starts, key=lambda call: call.answered_s or 0.0, default=None)
        if told is None or not told.ok:
            yield f"{truth.transaction_id!r} runs, and the station was told that it was not begun"
    if world.running_at_end is not None:
        yield f"{world.running_at_end.transaction_id!r} runs after one more start and stop"


def what_was_to_be_ended_does_not_run_on(world: Record) -> Iterator[str]:
    """What runs when it has been calm for a while is nothing that its own process was asked to end.

    * A stop that came before the transaction began is none for it.
    """
    truth = world.running_after_calm
    if truth is None or truth.owner is None or not truth.process_is(world.processes[-1].number):
        return
    for call in world.calls_of("stop", truth.owner.transaction_id):
        if call.process == truth.owner.process and call.answer is not None and (call.asked_s or 0.0) > truth.begun_s:
            yield f"{truth.transaction_id!r} runs on, and the station has asked for its end (call {call.number})"


def nothing_ends_that_nobody_wanted_ended(world: Record) -> Iterator[str]:
    """A transaction that the station was told had begun goes on until the station has it ended, or begins another.

    * Not one that ended before the station was told of it: the start that began it began another.
    * Not one that a power cut or a technician may have ended, nor where a stop for no id, or for an unknown one, came.
    """
    for meter in world.meters:
        if meter.meddled_s is None:
            continue
        for truth in meter.truths:
            if truth.closed_s is None or truth.lost or truth.owner is None:
                continue
            began = _calls_between(world, truth.begun_s, truth.begun_s)
            own = next((call for call in began if call.transaction_id == truth.transaction_id and call.ok), None)
            was_told = own is not None and (own.answered_s or 0.0) <= truth.closed_s
            was_meddled = any(truth.begun_s <= at_s <= truth.closed_s for at_s in meter.meddled_s)
            if was_told and not was_meddled and _calls_between(world, truth.begun_s, truth.closed_s) == [own]:
                yield f"{truth.transaction_id!r} ended at {truth.closed_s:.1f} s, and nobody wanted it ended"


def no_record_is_destroyed(world: Record) -> Iterator[str]:
    """No B of ours destroys a transaction of ours that runs, or whose record the meter is signing.

    * A process that was started since, and keeps no journal, cannot know that a record is being signed.
    """
    for meter in world.meters:
        for truth, by in meter.spoiled:
            if truth.owner is None:
                continue
            if truth.process_is(by.process) or (world.journal and _is_noted(world, truth)):
                yield f"the transaction {truth.transaction_id!r} was destroyed by the begin of {by.transaction_id!r}"


def every_command_is_answered_once_and_in_time(world: Record) -> Iterator[str]:
    """Every start is answered within 30 s and every stop within 60 s of the moment at which the driver had it.

    * Not where the process was killed, or ended, meanwhile. While the broker is away its answer waits for it.
    """
    for call in world.calls:
        if call.answer is None:
            if not call.excused:
                yield f"{call.command} {call.transaction_id!r} (call {call.number}) was never answered"
            continue
        took_s = (call.answered_s or 0.0) - (call.asked_s or 0.0)
        limit_s = (START_S if call.command == "start" else SILENT_STOP_S) + ANSWER_TAKES_S
        if took_s > limit_s + call.broker_away_s:
            yield f"{call.command} {call.transaction_id!r} was answered after {took_s:.1f} s"
    for letter in world.dead_letters:
        yield f"a message that nobody waits for: {letter}"
    for process in world.processes:
        for failure in process.failures:
            yield f"the task of process {process.number} failed: {failure!r}"


def the_charger_charges_again_after_all(world: Record) -> Iterator[str]:
    """When nothing is wrong any more, a session is begun and ended as if nothing had ever been, with its receipt.

    A receipt that the meter has then, and nobody was given, is handed over when it is asked for.

    * What the network or a power cut has done is given 100 s.
    """
    for call in world.calls:
        if call.fresh and not call.ok:
            yield f"{call.command} in a world in which nothing is wrong: {call.answer}"
        if call.owed and not call.ok:
            yield f"the receipt of {call.transaction_id!r} is there, and not given when all is calm: {call.answer}"


def energies_never_fall(world: Record) -> Iterator[str]:
    """The energy that is published never falls within a meter, also where its register does.

    * A process that was started since a register fell does not know what was published before.
    """
    highest: dict[tuple[str, int], float] = {}
    for serial, energy_wh, process in world.energies:
        number = process if world.counts.get("register_falls") else 0
        before_wh = highest.get((serial, number), 0.0)
        if energy_wh < before_wh:
            yield f"the energy of {serial} falls from {before_wh} Wh to {energy_wh} Wh"
        highest[serial, number] = max(energy_wh, before_wh)
        if serial not in {meter.serial for meter in world.meters}:
            yield f"a value of {serial}, which is none of the meters"


def the_meter_is_never_reported_unreachable_by_word(world: Record) -> Iterator[str]:
    """The communication check is ``true`` or withheld: anything else would switch it off in EVerest for good."""
    for payload in world.checks - {b"true"}:
        yield f"a communication check of {payload!r}"


def nothing_grows_and_nothing_is_left(world: Record) -> Iterator[str]:
    """Tasks and memories stay bounded from session to session, and an ended process leaves no task behind."""
    if max(world.tasks_left, default=0) > MOST_TASKS:
        yield f"{max(world.tasks_left)} tasks at the end of a session"
    if max(world.memory, default=0) > MOST_REMEMBERED:
        yield f"{max(world.memory)} receipts and ids are remembered"
    if world.leftover:
        yield f"{world.leftover} tasks are left when all processes have ended"


def nothing_fails_that_nobody_expected(world: Record) -> Iterator[str]:
    """Nothing is logged with a traceback: what a meter, a station, a network or a disk can do is expected."""
    for mistake in world.mistakes:
        yield f"an exception that nobody expected: {mistake}"


def no_error_outlives_its_cause(world: Record) -> Iterator[str]:
    """When nothing is wrong any more, EVerest holds no error for active."""
    for error_type, sub_type in sorted(world.errors):
        yield f"error {error_type} {sub_type!r} is active at the end"


# --- help ---


def _truth_of(world: Record, text: str | None) -> Truth | None:
    truths = (truth for meter in world.meters for truth in meter.truths)
    return next((truth for truth in truths if text is not None and truth.text == text), None)


def _calls_between(world: Record, begin_s: float, end_s: float) -> list[Call]:
    """Return the commands that a process had, or worked on, within a time."""
    return [
        call
        for call in world.calls
        if call.asked_s is not None
        and call.asked_s <= end_s
        and (call.answered_s is None or call.answered_s >= begin_s)
    ]


def _shows(payload: dict[str, Any], request: dict[str, Any], *, fresh: bool) -> bool:
    asked_ID = request.get("identification_data") or request["transaction_id"]
    connectors = (request["evse_id"],) if fresh else (request["evse_id"], "")
    return (
        payload["ID"] == asked_ID
        and payload["CI"] in connectors
        and request.get("tariff_text") in (None, "", payload["TT"])
    )


def _why_not_its_own(world: Record, call: Call, truth: Truth) -> str:
    """Say why a receipt is not the one that was asked for, or "" where it may be delivered."""
    own = [each for meter in world.meters for each in meter.truths if each.transaction_id == call.transaction_id]
    if truth in own and call.transaction_id:
        told_s = [
            start.answered_s or 0.0
            for start in world.calls_of("start", call.transaction_id)
            if start.ok and (start.answered_s or 0.0) <= (call.asked_s or 0.0)
        ]
        later = [each for each in own if each.begun_s > truth.begun_s and each.begun_s <= max(told_s, default=-1.0)]
        is_known = world.journal or any(each.text is not None or each.process_is(call.process) for each in later)
        return f"it is an earlier one under the same id (begun at {truth.begun_s:.1f} s)" if later and is_known else ""
    if _means_something(world, call, own):
        return f"it is that of {truth.transaction_id!r}, begun at {truth.begun_s:.1f} s on {truth.serial}"
    asked_s = call.asked_s or 0.0
    newer = [
        each.transaction_id
        for each in world.meter.signed_truths
        if each.begun_s > truth.begun_s and (each.closed_s or asked_s) < asked_s - SHOWN_WITHIN_S
    ]
    is_of_this_meter = truth.serial == world.meter.serial
    return f"it is not the last one: {newer[-1]!r} was signed since" if newer and is_of_this_meter else ""


def _means_something(world: Record, call: Call, own: list[Truth]) -> bool:
    """Whether the id of a stop means something to the process that answered it."""
    if call.transaction_id == "":
        return False
    process = call.process if call.answered_by is None else call.answered_by
    if any(
        start.process == process
        and start.answer is not None  # a broker that was killed may have lost it on its way
        and (start.asked_s, start.number) < (call.asked_s, call.number)
        for start in world.calls_of("start", call.transaction_id)
    ):
        return True
    before = [each for each in own if each.begun_s < (call.asked_s or 0.0)]
    return world.journal and bool(before) and all(_is_noted(world, each) for each in before)


def _was_dropped(world: Record, at_s: float | None) -> bool:
    """Whether what was to be written at a time was lost: its disk was in trouble, and its process was killed then."""
    return at_s is not None and any(begin_s - 5.0 <= at_s <= end_s for begin_s, end_s in world.disk_troubled)


def _is_noted(world: Record, truth: Truth) -> bool:
    """Whether a journal has a transaction: it is written before B goes out, unless a disk in trouble keeps it."""
    return not any(begin_s <= truth.begun_s <= end_s for begin_s, end_s in world.disk_troubled)
