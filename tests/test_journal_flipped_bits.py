"""A journal in which a bit was flipped, wherever: it is read, or moved aside and begun anew, and never a traceback."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from iem_dcr.journal import Journal
from tests.support.command_line import run
from tests.support.journals import ADDRESS, METER, StepWorker, entries, entry, journal, kept, result, tuple_text
from tests.support.profiles import times

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = range(60, 64)
"""Where SQLite keeps `user_version`: with another number there the file is a newer program's, and left alone."""
WRITTEN = {tuple_text(number) for number in range(30)}


@pytest.fixture(scope="module")
def sound() -> Iterator[bytes]:
    """A journal of 30 receipts, each with the note of its transaction."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "receipts.db"

        async def write() -> None:
            async with journal(path) as opened:
                for number in range(30):
                    opened.note(entry(f"N-{number}"))
                    await opened.keep(kept(number, f"T-{number}"))

        asyncio.run(write())
        yield path.read_bytes()


def use(path: Path) -> str:
    """Use a journal as a driver does, which then stops; returns what became of it."""
    before = path.read_bytes()
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    recalling = opened.recall(meter=METER, address=ADDRESS)
    opened.keep(kept(1000, "T-1000"))
    worker.run()
    recalled, is_refused = result(recalling), bool(opened.unwritten)
    opened.abandon()
    assert {found.text for found in recalled.receipts} <= WRITTEN, "what is not as it was written is not handed over"
    if is_refused:
        assert path.read_bytes() == before
        return "refused"
    assert tuple_text(1000) in [found.text for found in entries(path)]
    return "moved aside" if [*path.parent.glob("*.corrupt-*")] else "read"


def flipped(sound: bytes, position: int) -> bytes:
    changed = bytearray(sound)
    changed[position // 8] ^= 1 << position % 8
    return bytes(changed)


def test_a_sound_file_is_read_and_what_is_no_database_is_moved_aside(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    for content, became in ((sound, "read"), (flipped(sound, 0), "moved aside")):
        path.write_bytes(content)
        assert use(path) == became


@pytest.mark.parametrize("seed", range(times(4, 20)))
def test_a_flipped_bit_is_read_over_or_the_file_is_moved_aside(
    seed: int, sound: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """100 positions in all, or 2,000."""
    chance = random.Random(seed)
    for position in chance.sample(range(8 * len(sound)), times(25, 100)):
        path = tmp_path / str(position) / "receipts.db"
        path.parent.mkdir()
        path.write_bytes(flipped(sound, position))
        listed = run("receipts", "list", "--journal", str(path))
        assert listed.status in (0, 1, 2)
        assert "bug in the program" not in listed.err
        assert use(path) != "refused" or position // 8 in VERSION
    assert "Traceback" not in caplog.text
