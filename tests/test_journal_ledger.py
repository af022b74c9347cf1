"""What a journal keeps of the ledger for the next process: entries without a receipt, refused ids, receipts, pins."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from random import Random
from typing import TYPE_CHECKING

import pytest

from iem_dcr.driver.ports import FiledReceipt, Recalled
from iem_dcr.errors import JournalError
from iem_dcr.journal import forget
from tests.support.journals import ADDRESS, METER, NOW, Desk, changing, entry, failure, kept, result, tuple_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from pathlib import Path

    from iem_dcr.driver.ports import NotedEntry

SECOND = timedelta(seconds=1)


@pytest.fixture
def desk(path: Path) -> Iterator[Desk]:
    made = Desk(path)
    yield made
    made.journal.abandon()


def standing(desk: Desk) -> list[tuple[str, str]]:
    return [(one.transaction_id, one.state) for one in desk.recall().entries]


def text_of(desk: Desk, transaction_id: str) -> str | None:
    found = desk.receipt_of(transaction_id)
    return None if found is None else found.text


def note(desk: Desk, *entries: NotedEntry) -> None:
    for one in entries:
        desk.journal.note(one)


def test_entries_are_recalled_as_noted_in_order(desk: Desk) -> None:
    assert desk.recall() == Recalled()
    meters_zone = timezone(timedelta(hours=1))
    first = entry("T-1", PG_before=None, sent=datetime(2026, 3, 1, 12, 0, 0, 123456, meters_zone), noted=NOW)
    second = entry("T-2", "open", PG_before="", noted=NOW + SECOND)
    third = entry("T-1", ID="\ud800", noted=NOW + 2 * SECOND + timedelta(microseconds=1))
    elsewhere = entry("T-4", meter="another", address="192.0.2.9:80")
    exchanged = entry("T-5", meter="another")
    note(desk, first, second, third, elsewhere, exchanged)
    later = replace(first, state="lost", answered=datetime(2026, 3, 1, 12, 0, 1, tzinfo=meters_zone))
    note(desk, later)
    assert desk.recall().entries == (later, second, replace(third, ID="\\ud800"), exchanged)
    assert desk.recall(address="").entries == (later, second, replace(third, ID="\\ud800"))
    assert desk.recall().entries[0].sent == first.sent


def test_superseded_receipt_removes_older_entries_and_answers_no_stop(desk: Desk) -> None:
    note(desk, entry("T-1", "lost"), entry("T-1", "open"))
    desk.journal.keep(kept(1, "T-1", superseded=True))
    assert standing(desk) == [("T-1", "open")]
    assert desk.recall().receipts == (FiledReceipt(tuple_text(1), "T-1", "3059", superseded=True),)
    desk.journal.keep(kept(2, "T-1"))
    for transaction_id, text in (("T-2", tuple_text(2)), ("T-1", None)):
        desk.journal.keep(kept(2, transaction_id, superseded=True))
        assert text_of(desk, "T-1") == text


def test_accepted_begin_supersedes_the_receipts_of_its_id(desk: Desk) -> None:
    desk.journal.keep(kept(1, "T-1"))
    again = entry("T-1")
    note(desk, replace(again, meter="another", state="open"), again)
    assert text_of(desk, "T-1") == tuple_text(1)
    note(desk, replace(again, state="open"))
    assert text_of(desk, "T-1") is None
    desk.journal.keep(kept(2, "T-1"))
    assert text_of(desk, "T-1") == tuple_text(2)
    assert [one.superseded for one in desk.recall().receipts] == [True, False]


def test_id_is_refused_until_it_has_an_entry_or_a_receipt(desk: Desk) -> None:
    for transaction_id in ("T-1", "T-2", "T-3", "T-1"):
        desk.refuse(transaction_id, meter="")
    desk.refuse("T-4", meter="another", address="elsewhere")
    assert desk.recall(meter="").refused == ("T-2", "T-3", "T-1")
    note(desk, entry("T-2"))
    desk.journal.keep(kept(1, "T-3"))
    assert desk.recall().refused == ("T-1",)
    desk.refuse("T-2", meter="")
    desk.refuse("T-2", address="elsewhere")
    assert desk.recall().refused == ("T-1",)
    assert desk.recall(meter="another", address="").refused == ("T-4",)


def test_only_the_latest_are_kept(desk: Desk) -> None:
    for number in range(100):
        note(desk, entry(f"N-{number}", noted=NOW + number * SECOND))
        desk.refuse(f"R-{number}")
        desk.journal.keep(kept(number))
    recalled = desk.recall()
    assert [one.transaction_id for one in recalled.entries] == [f"N-{number}" for number in range(36, 100)]
    assert recalled.refused == tuple(f"R-{number}" for number in range(36, 100))
    assert [one.text for one in recalled.receipts] == [tuple_text(number) for number in range(36, 100)]


def test_recalled_receipts_are_those_of_the_meter_or_its_address(desk: Desk) -> None:
    desk.journal.keep(kept(1, "T-1"))
    desk.journal.keep(kept(2, "T-2", meter="another"))
    desk.journal.keep(kept(3, "T-3", address="elsewhere"))
    desk.journal.keep(kept(4, "T-4", meter="another", address="elsewhere"))
    desk.recall()
    forget(desk.path, transaction_id="T-1")
    assert [one.transaction_id for one in desk.recall().receipts] == ["T-2", "T-3"]
    assert [one.transaction_id for one in desk.recall(meter="another", address="").receipts] == ["T-2", "T-4"]


def test_serial_is_pinned_for_an_address(desk: Desk) -> None:
    assert desk.recall().pinned == ""
    desk.journal.pin(ADDRESS, METER)
    desk.journal.pin("elsewhere", "another")
    assert desk.recall(meter="").pinned == METER
    desk.journal.pin(ADDRESS, "")
    assert desk.recall().pinned == ""


def test_newest_time_is_the_hosts(desk: Desk) -> None:
    desk.keep(kept(1))
    assert desk.recall().newest == NOW
    note(desk, entry("T-1", noted=NOW + timedelta(microseconds=1)))
    assert desk.recall(meter="another", address="").newest == NOW + timedelta(microseconds=1)


def test_erasing_removes_entries_and_refused_ids_of_a_person(desk: Desk) -> None:
    note(desk, entry("T-1", ID="a person"), entry("T-2"), entry("T-3"))
    desk.refuse("T-4")
    desk.recall()
    forget(desk.path, identification="a person")
    forget(desk.path, transaction_id="T-3")
    forget(desk.path, transaction_id="T-4")
    assert standing(desk) == [("T-2", "uncertain")]
    assert desk.recall().refused == ()


@pytest.mark.parametrize(
    "damage",
    ["state = 'oqen'", "noted_us = 9223372036854775807", "noted_us = 'x'", "noted_us = -9223372036854775808"],
)
def test_damaged_entry_is_left_out(damage: str, desk: Desk) -> None:
    note(desk, entry("T-1"), entry("T-2"))
    desk.recall()
    with changing(desk.path) as connection:
        connection.execute(f"UPDATE ledger SET {damage}, sent_text = 'x' WHERE transaction_id = 'T-1'")  # noqa: S608
        connection.execute("UPDATE ledger SET sent_text = '2026-03-01' WHERE transaction_id = 'T-2'")
    assert standing(desk) == [("T-2", "uncertain")]
    assert desk.recall().entries[0].sent is None


# --- against a model ---


class Model:
    """What the port says, in a few lines of Python."""

    def __init__(self) -> None:
        self.entries: dict[datetime, NotedEntry] = {}
        self.refused: dict[str, None] = {}
        self.receipts: dict[str, tuple[str, bool]] = {}

    def note(self, one: NotedEntry) -> None:
        self.entries[one.noted] = one
        self.refused.pop(one.transaction_id, None)
        if one.state == "open":
            for text, (transaction_id, superseded) in self.receipts.items():
                self.receipts[text] = transaction_id, superseded or transaction_id == one.transaction_id

    def keep(self, text: str, transaction_id: str, *, superseded: bool) -> None:
        self.receipts[text] = transaction_id, superseded
        settled = [noted for noted, one in self.entries.items() if one.transaction_id == transaction_id]
        for noted in settled[:-1] if superseded else settled:
            del self.entries[noted]
        if not superseded:
            self.refused.pop(transaction_id, None)

    def refuse(self, transaction_id: str) -> None:
        if all(one.transaction_id != transaction_id for one in self.entries.values()):
            self.refused.pop(transaction_id, None)
            self.refused[transaction_id] = None

    def answer(self, transaction_id: str) -> str | None:
        which = (transaction_id, False)
        return next((text for text, whose in reversed(self.receipts.items()) if whose == which), None)

    def assert_is(self, recalled: Recalled) -> None:
        assert recalled.entries == tuple(self.entries.values())
        assert recalled.refused == tuple(self.refused)
        assert {one.text: (one.transaction_id, one.superseded) for one in recalled.receipts} == self.receipts


class Run(Desk):
    """A journal that is called, fails and is killed at random, and the model after each of its writes."""

    def __init__(self, path: Path, seed: int) -> None:
        super().__init__(path)
        self.chance = Random(seed)
        self.models = [Model()]
        self.acknowledged: dict[int, Awaitable[None]] = {}
        self.questions: list[Awaitable[Recalled]] = []

    @property
    def written(self) -> int:
        return len(self.models) - 1 - self.journal.unwritten

    def write(self, number: int) -> None:
        name, model = self.chance.choice("ABC"), deepcopy(self.models[-1])
        what = self.chance.choice(["note", "note", "again", "withdraw", "refuse", "keep", "keep"])
        known = self.chance.choice([*model.entries.values(), None])
        if what == "refuse":
            model.refuse(name)
            answer = self.refuse(name)
        elif what == "keep":
            superseded = self.chance.random() < 0.3
            model.keep(tuple_text(number), name, superseded=superseded)
            answer = self.journal.keep(kept(number, name, superseded=superseded))
        elif what == "withdraw" and known is not None:
            del model.entries[known.noted]
            answer = self.journal.withdraw(known)
        else:
            is_new = what == "note" or known is None
            one = entry(name, noted=NOW + number * SECOND) if is_new or known is None else known
            one = replace(one, state=self.chance.choice(["uncertain", "open", "ended", "lost"]))
            model.note(one)
            answer = self.journal.note(one)
        self.models.append(model)
        self.acknowledged[len(self.models) - 1] = answer

    def step(self) -> None:
        is_question = not self.worker.writes
        is_failure = self.chance.random() < 0.2 and not is_question
        if self.worker.step(failure("SQLITE_FULL") if is_failure else None) and is_question:
            self.models[self.written].assert_is(result(self.questions.pop(0)))

    def kill(self) -> None:
        written = self.written
        self.journal.abandon()
        for number, answer in self.acknowledged.items():
            if number > written:
                with pytest.raises((JournalError, TimeoutError)):
                    asyncio.run(asyncio.wait_for(answer, 0))
        del self.models[written + 1 :]
        self.acknowledged, self.questions = {}, []
        after = Desk(self.path)
        self.worker, self.journal = after.worker, after.journal


@pytest.mark.parametrize("seed", range(12))
def test_file_agrees_with_the_model_after_failures_and_kills(seed: int, path: Path) -> None:
    run = Run(path, seed)
    for number in range(60):
        what = run.chance.random()
        if what < 0.5:
            run.write(number)
        elif what < 0.7:
            run.questions.append(run.journal.recall(meter=METER, address=ADDRESS))
        elif what < 0.75:
            run.kill()
        elif what < 0.8:
            run.worker.now_s += 3
        run.step()
    run.worker.wait(3)
    assert run.journal.unwritten == 0
    for name in "ABC":
        assert text_of(run, name) == run.models[-1].answer(name)
    run.journal.abandon()
