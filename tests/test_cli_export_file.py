"""A file is there whole, or as it was before."""

from __future__ import annotations

import os
import resource
import stat
from typing import TYPE_CHECKING

import pytest

from iem_dcr.cli.export_file import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

BEFORE, AFTER = b"b" * 100, b"a" * 5000


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    file, other = tmp_path / ("\u20ac" * 85), tmp_path / "other"  # as long as a name may be
    other.touch()
    write_atomically(file, AFTER)
    assert file.read_bytes() == AFTER
    assert file.stat().st_mode == other.stat().st_mode


def test_one_that_was_there_keeps_its_rights_and_its_links(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(BEFORE)
    file.chmod(0o640)
    link.symlink_to(file)
    write_atomically(link, AFTER)
    assert link.is_symlink()
    assert file.read_bytes() == AFTER
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(tmp_path.iterdir()) == [file, link], "nothing is left beside it"


def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(BEFORE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(file, AFTER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == BEFORE
    assert list(tmp_path.iterdir()) == [file]


def test_a_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, AFTER)
    assert os.read(reading, 2 * len(AFTER)) == AFTER
    os.close(reading)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
