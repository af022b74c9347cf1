"""The promises: one function for each, with all its exceptions in its docstring.

A run (`station.Station`) is judged by three things: the answers to the station (`Call`), what the meters really did
(`Truth`), and the contents of the journal at the end. A broken promise is a sentence. `broken` returns all of them.

A failing disk excuses one thing only. If the process is killed before the disk works again, entries that were not
written are missing in the journal, and the next process does not know them.
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
    from endurance.station import Call, Station

ANSWER_TRANSPORT_S: Final = 1.6
"""Maximum time from the driver's answer to its arrival at the station: EVerest's handler has a margin of one second."""
CLOCK_OFF: Final = timedelta(seconds=10)
"""Maximum error of a meter's clock: the driver corrects errors of 5 s or more, and the clock shows whole seconds."""
RECEIPT_TIMEOUT_S: Final = 15.0
"""Maximum time until a meter shows a receipt: signing takes 2 s, the meter may close late, and a node may lag."""
MAX_TASKS: Final = 24
MAX_REMEMBERED: Final = 4 * 64 + 8
"""Limit of remembered receipts and ids: each of the driver's collections holds 64."""


def broken(run: Station) -> list[str]:
    """Return a sentence for every broken promise, at the end of a run."""
    promises = (
        each_signed_receipt_is_in_the_journal,
        the_station_knows_what_runs,
        stopped_transactions_do_not_run,
        the_charger_charges_again,
        no_error_outlives_its_cause,
    )
    at_the_end = [sentence for promise in promises for sentence in promise(run)]
    return list(dict.fromkeys([*run.problems, *broken_so_far(run), *at_the_end]))


def broken_so_far(run: Station) -> list[str]:
    """Return a sentence for every broken promise among those that must always hold. Called after each session."""
    promises = (
        each_receipt_belongs_to_its_transaction,
        each_receipt_shows_its_request,
        each_stopped_transaction_has_its_receipt,
        no_transaction_ends_without_a_request,
        no_transaction_is_destroyed,
        every_command_is_answered_once_and_in_time,
        energies_never_fall,
        the_communication_check_is_never_false,
        nothing_leaks,
        no_unexpected_exception,
    )
    return [sentence for promise in promises for sentence in promise(run)]


def each_receipt_belongs_to_its_transaction(run: Station) -> Iterator[str]:
    """Every delivered receipt is, byte for byte, what a meter signed for the requested transaction.

    * Several transactions may have begun under one id. A stop then gets the receipt of the last one whose start was
      answered OK before the stop, or of a later one. Exception: the meter lost the later ones, there is no journal, and
      the process was started after them, so that it cannot know of them.
    * A receipt that was delivered for an id remains the receipt of that id.
    * An unknown id and "" have no influence: the stop gets the receipt of the transaction that it ended, or the last
      receipt of the meter. The process that received the start knows an id, and so does a later one that finds it in
      the journal.
    """
    judged: set[tuple[str, str]] = set()
    for call in run.calls:
        text = call.tuple_text
        if text is None or (text, call.transaction_id) in judged:
            continue
        judged.add((text, call.transaction_id))
        truth = _truth_of(run, text)
        if truth is None:
            yield f"stop {call.transaction_id!r}: its receipt was never signed by a meter"
        elif why := _mismatch(run, call, truth):
            yield f"stop {call.transaction_id!r} (call {call.number}): {why}"


def each_receipt_shows_its_request(run: Station) -> Iterator[str]:
    """A receipt shows user, tariff text and connector of a request under its id, and begins at the host's time.

    * The connector may be empty, because the meter forgets it in a power cut. In a calm world it must be there.
    * The time is checked only in a calm world, and only if the host's clock is plausible.
    """
    for call in run.calls:
        text, starts = call.tuple_text, run.calls_of("start", call.transaction_id)
        truth = _truth_of(run, text)
        if text is None or truth is None or truth.transaction_id != call.transaction_id:
            continue
        payload = json.loads(text.split("|", 2)[1])
        if not any(_matches(payload, start.request, fresh=call.fresh) for start in starts):
            shown = {name: payload[name] for name in ("ID", "TT", "CI")}
            yield f"the receipt of {call.transaction_id!r} shows {shown}, which was not requested"
        if call.fresh and run.running_after_calm is None and run.host_is_set_at(truth.begun_s):
            began = meter_time.parse(payload["RD"][0]["TM"]).instant
            off = began - run.host_at(truth.begun_s)
            if abs(off) > CLOCK_OFF:
                yield f"the receipt of {call.transaction_id!r} begins at {began}, which differs from the host by {off}"


def each_stopped_transaction_has_its_receipt(run: Station) -> Iterator[str]:
    """A stop that is answered OK returns a receipt. The journal then has that receipt exactly once, under its id.

    * Not checked while the disk fails: a stop waits only 0.5 s for the journal.
    * Exception: the disk failed, so that the receipt was not written, and the process was killed then.
    """
    for call in run.calls:
        if call.command != "stop" or not call.ok:
            continue
        text = call.tuple_text
        if text is None:
            yield f"stop {call.transaction_id!r} is answered OK without a receipt"
            continue
        if run.journal_entries is None or not run.disk_works:
            continue
        entries = [entry for entry in run.journal_entries if entry.text == text]
        if len(entries) > 1:
            yield f"the journal has the receipt of {call.transaction_id!r} {len(entries)} times"
        elif not entries:
            if not _was_dropped(run, call.answered_s):
                yield f"the receipt delivered for {call.transaction_id!r} (call {call.number}) is not in the journal"
        elif (owner := entries[0].transaction_id) != call.transaction_id:
            truth = _truth_of(run, text)
            is_its_own = truth is not None and truth.transaction_id == call.transaction_id and _is_stored(run, truth)
            if is_its_own and not _was_dropped(run, call.answered_s):
                yield f"the receipt of {call.transaction_id!r} is in the journal as that of {owner!r}"


def each_signed_receipt_is_in_the_journal(run: Station) -> Iterator[str]:
    """The journal, if there is one, has the receipt of every transaction of the station, delivered or not.

    * Exception: the meter was exchanged before the driver could read the receipt.
    * Exception: the disk failed, so that the receipt was not written, and the process was killed then.
    * Exception: the receipt of a foreign transaction replaced it, as the meter shows only its last one.
    """
    if run.journal_entries is None:
        return
    texts = {entry.text for entry in run.journal_entries}
    for meter in run.meters:
        signed = meter.signed_truths
        for truth, following in zip(signed, [*signed[1:], None], strict=False):
            if truth.owner is None or truth.text in texts:
                continue
            was_covered = following is not None and following.owner is None
            was_exchanged = meter is not run.meter and following is None
            if not (was_covered or was_exchanged or _was_dropped(run, truth.closed_s)):
                which = f"{truth.transaction_id!r} (transaction {truth.number} of {truth.serial})"
                yield f"the receipt of {which} is not in the journal"


def the_station_knows_what_runs(run: Station) -> Iterator[str]:
    """A transaction that runs after the calm is the station's, and its start was answered OK.

    * Exception: a process that was started after the begin cannot know how the start was answered. The next start or
      stop ends the transaction, which is checked too.
    * Exception: a foreign transaction continues until the next start or stop.
    """
    truth = run.running_after_calm
    if truth is not None and truth.owner is not None and truth.process_is(run.processes[-1].number):
        starts = run.calls_of("start", truth.owner.transaction_id)
        last = max(starts, key=lambda call: call.answered_s or 0.0, default=None)
        if last is None or not last.ok:
            yield f"{truth.transaction_id!r} runs, although its start was not answered OK"
    if run.running_at_end is not None:
        yield f"{run.running_at_end.transaction_id!r} still runs after one more start and stop"


def stopped_transactions_do_not_run(run: Station) -> Iterator[str]:
    """A transaction that runs after the calm has not been stopped at the process that began it.

    * A stop that came before the transaction began does not count.
    """
    truth = run.running_after_calm
    if truth is None or truth.owner is None or not truth.process_is(run.processes[-1].number):
        return
    for call in run.calls_of("stop", truth.owner.transaction_id):
        if call.process == truth.owner.process and call.answer is not None and (call.asked_s or 0.0) > truth.begun_s:
            yield f"{truth.transaction_id!r} still runs, although the station has stopped it (call {call.number})"


def no_transaction_ends_without_a_request(run: Station) -> Iterator[str]:
    """A transaction whose start was answered OK continues until the station stops it or starts another one.

    * Exception: it ended before its start was answered, because that start began another one.
    * Exception: a power cut or a technician may have ended it.
    * Exception: there was any other command meanwhile, such as a stop for "" or for an unknown id.
    """
    for meter in run.meters:
        if meter.interfered_s is None:
            continue
        for truth in meter.truths:
            if truth.closed_s is None or truth.lost or truth.owner is None:
                continue
            began = _calls_between(run, truth.begun_s, truth.begun_s)
            own = next((call for call in began if call.transaction_id == truth.transaction_id and call.ok), None)
            was_confirmed = own is not None and (own.answered_s or 0.0) <= truth.closed_s
            was_interfered = any(truth.begun_s <= at_s <= truth.closed_s for at_s in meter.interfered_s)
            if was_confirmed and not was_interfered and _calls_between(run, truth.begun_s, truth.closed_s) == [own]:
                yield f"{truth.transaction_id!r} ended at {truth.closed_s:.1f} s without a request"


def no_transaction_is_destroyed(run: Station) -> Iterator[str]:
    """No B of ours destroys a transaction of ours that runs or is being signed.

    * Exception: a process that was started later and has no journal cannot know that a record is being signed.
    """
    for meter in run.meters:
        for truth, by in meter.spoiled:
            if truth.owner is None:
                continue
            if truth.process_is(by.process) or (run.journal and _is_stored(run, truth)):
                yield f"the B for {by.transaction_id!r} destroyed the transaction {truth.transaction_id!r}"


def every_command_is_answered_once_and_in_time(run: Station) -> Iterator[str]:
    """The driver answers each command once: a start in 30 s, a stop in 60 s, or in 110 s if the meter is silent.

    * All stops are checked against 110 s.
    * Exception: the process was killed or ended meanwhile.
    * The time during which the broker was away is added to the deadline.
    """
    for call in run.calls:
        if call.answer is None:
            if not call.excused:
                yield f"{call.command} {call.transaction_id!r} (call {call.number}) was never answered"
            continue
        limit_s = (START_S if call.command == "start" else SILENT_STOP_S) + ANSWER_TRANSPORT_S
        if call.took_s > limit_s + call.broker_away_s:
            yield f"{call.command} {call.transaction_id!r} was answered after {call.took_s:.1f} s"
    for letter in run.dead_letters:
        yield f"an unexpected message: {letter}"
    for process in run.processes:
        for failure in process.failures:
            yield f"the task of process {process.number} failed: {failure!r}"


def the_charger_charges_again(run: Station) -> Iterator[str]:
    """When all faults have ended, a session works normally and has its receipt.

    A receipt that the meter then has and that was never delivered is delivered when it is requested.

    * The driver has 100 s to recover from network faults and power cuts.
    * Exception: the meter's clock leapt during the start, and the process that could measure that was ended.
    """
    for call in run.calls:
        if call.fresh and not call.ok:
            yield f"{call.command} in a calm world: {call.answer}"
        if call.owed and not call.ok:
            yield f"the receipt of {call.transaction_id!r} is not delivered in a calm world: {call.answer}"


def energies_never_fall(run: Station) -> Iterator[str]:
    """The published energy of a meter never falls, even if its register does.

    * Exception: a process that was started after a register fell does not know the values published before.
    """
    highest: dict[tuple[str, int], float] = {}
    for serial, energy_wh, process in run.energies:
        number = process if run.counts.get("register_falls") else 0
        before_wh = highest.get((serial, number), 0.0)
        if energy_wh < before_wh:
            yield f"the energy of {serial} falls from {before_wh} Wh to {energy_wh} Wh"
        highest[serial, number] = max(energy_wh, before_wh)
        if serial not in {meter.serial for meter in run.meters}:
            yield f"a value has the serial {serial}, which no meter has"


def the_communication_check_is_never_false(run: Station) -> Iterator[str]:
    """The communication check is ``true`` or is not sent. Any other payload would disable it in EVerest for good."""
    for payload in run.checks - {b"true"}:
        yield f"the communication check is {payload!r}"


def nothing_leaks(run: Station) -> Iterator[str]:
    """The number of tasks and of remembered receipts stays bounded, and an ended process leaves no task."""
    if max(run.tasks_left, default=0) > MAX_TASKS:
        yield f"{max(run.tasks_left)} tasks at the end of a session"
    if max(run.memory, default=0) > MAX_REMEMBERED:
        yield f"{max(run.memory)} remembered receipts and ids"
    if run.leftover:
        yield f"{run.leftover} tasks after all processes have ended"


def no_unexpected_exception(run: Station) -> Iterator[str]:
    """Nothing is logged with a traceback: the program expects every fault of a meter, station, network or disk."""
    for mistake in run.mistakes:
        yield f"an unexpected exception: {mistake}"


def no_error_outlives_its_cause(run: Station) -> Iterator[str]:
    """When all faults have ended, no error is active in EVerest."""
    for error_type, sub_type in sorted(run.errors):
        yield f"the error {error_type} {sub_type!r} is still active at the end"


# --- helpers ---


def _truth_of(run: Station, text: str | None) -> Truth | None:
    return next((truth for truth in run.truths if text is not None and truth.text == text), None)


def _calls_between(run: Station, begin_s: float, end_s: float) -> list[Call]:
    """Return the commands that a process received or was handling within a period."""
    return [
        call
        for call in run.calls
        if call.asked_s is not None
        and call.asked_s <= end_s
        and (call.answered_s is None or call.answered_s >= begin_s)
    ]


def _matches(payload: dict[str, Any], request: dict[str, Any], *, fresh: bool) -> bool:
    asked_ID = request.get("identification_data") or request["transaction_id"]
    connectors = (request["evse_id"],) if fresh else (request["evse_id"], "")
    return (
        payload["ID"] == asked_ID
        and payload["CI"] in connectors
        and request.get("tariff_text") in (None, "", payload["TT"])
    )


def _mismatch(run: Station, call: Call, truth: Truth) -> str:
    """Return why this receipt is not the requested one, or "" if it may be delivered."""
    own = [each for each in run.truths if each.transaction_id == call.transaction_id]
    if truth in own and call.transaction_id:
        confirmed_s = [
            start.answered_s or 0.0
            for start in run.calls_of("start", call.transaction_id)
            if start.ok and (start.answered_s or 0.0) <= (call.asked_s or 0.0)
        ]
        later = [each for each in own if truth.begun_s < each.begun_s <= max(confirmed_s, default=-1.0)]
        is_known = run.journal or any(each.text is not None or each.process_is(call.process) for each in later)
        return f"it is an earlier receipt of the same id (begun at {truth.begun_s:.1f} s)" if later and is_known else ""
    if _is_known_id(run, call, own):
        return f"it belongs to {truth.transaction_id!r}, begun at {truth.begun_s:.1f} s on {truth.serial}"
    asked_s = call.asked_s or 0.0
    newer = [
        each.transaction_id
        for each in run.meter.signed_truths
        if each.begun_s > truth.begun_s and (each.closed_s or asked_s) < asked_s - RECEIPT_TIMEOUT_S
    ]
    is_of_this_meter = truth.serial == run.meter.serial
    return f"it is not the last receipt: {newer[-1]!r} was signed later" if newer and is_of_this_meter else ""


def _is_known_id(run: Station, call: Call, own: list[Truth]) -> bool:
    """Return whether the process that answered a stop knows its id."""
    if call.transaction_id == "":
        return False
    process = call.process if call.answered_by is None else call.answered_by
    if any(
        start.process == process
        and start.answer is not None  # a killed broker may have lost the start
        and (start.asked_s, start.number) < (call.asked_s, call.number)
        for start in run.calls_of("start", call.transaction_id)
    ):
        return True
    before = [each for each in own if each.begun_s < (call.asked_s or 0.0)]
    return run.journal and bool(before) and all(_is_stored(run, each) for each in before)


def _was_dropped(run: Station, at_s: float | None) -> bool:
    """Return whether an entry of that time was lost because the disk failed and the process was killed then."""
    return at_s is not None and any(begin_s - 5.0 <= at_s <= end_s for begin_s, end_s in run.disk_troubled)


def _is_stored(run: Station, truth: Truth) -> bool:
    """Return whether the journal has a transaction. It is written before B is sent, unless the disk fails."""
    return not any(begin_s <= truth.begun_s <= end_s for begin_s, end_s in run.disk_troubled)
