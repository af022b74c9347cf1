"""The service's log: one line a record, whatever is in it and whoever reads it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.everest_api.context import METER
from iem_dcr.service import logs
from iem_dcr.service.logs import JsonFormatter, LineHandler, TextFormatter, is_journal, log_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ours = logging.getLogger("iem_dcr.test")
HOSTILE = "a\nb\r\nc\x1b[2J\x85\u2028d\x00\ud800"
TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@contextlib.contextmanager
def at(module_id: str) -> Iterator[None]:
    """Be at work on a meter."""
    token = METER.set(module_id)
    try:
        yield
    finally:
        METER.reset(token)


def logged(
    work: Callable[[], object], style: str = "text", level: int = logging.INFO, *, journal: bool = False
) -> list[str]:
    """Do something and return the lines it logged to standard error, which is a pipe."""
    reading, writing = os.pipe()
    found = os.fstat(writing)
    stream = f"{found.st_dev}:{found.st_ino}" if journal else "1:1"
    with open(reading, encoding="utf-8") as read:  # noqa: PTH123  it is a descriptor
        with (
            open(writing, "w", encoding="utf-8") as written,  # noqa: PTH123
            contextlib.redirect_stderr(written),
            log_lines(style, level, {"JOURNAL_STREAM": stream}),
        ):
            work()
        text = read.read()
    assert text.endswith("\n") or not text
    return text.split("\n")[:-1]


def broken(text: str) -> None:
    raise ValueError(text)


def tell() -> None:
    ours.info("began")
    with at("pm1"):
        ours.warning("the meter at %s", "10.0.0.1:80")


def test_text() -> None:
    first, second = logged(tell)
    assert re.fullmatch(rf"{TIME} INFO -: began", first)
    assert re.fullmatch(rf"{TIME} WARNING pm1: the meter at 10\.0\.0\.1:80", second)


def test_the_journal_gets_priorities_and_no_time() -> None:
    assert logged(tell, journal=True) == ["<6>INFO -: began", "<4>WARNING pm1: the meter at 10.0.0.1:80"]

    def all_levels() -> None:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            ours.log(level, "x")

    assert [line[:3] for line in logged(all_levels, level=logging.DEBUG, journal=True)] == [
        "<7>",
        "<6>",
        "<4>",
        "<3>",
        "<2>",
    ]


def test_json() -> None:
    first, second = (json.loads(line) for line in logged(tell, "json", journal=True))
    assert re.fullmatch(TIME, first.pop("time"))
    assert first == {"level": "INFO", "logger": "iem_dcr.test", "module_id": "", "message": "began"}
    assert (second["module_id"], second["message"]) == ("pm1", "the meter at 10.0.0.1:80")


@pytest.mark.parametrize("style", logs.STYLES)
def test_a_traceback_is_in_the_same_line(style: str) -> None:
    def fail() -> None:
        try:
            broken(HOSTILE)
        except ValueError:
            ours.exception("it failed")

    (line,) = logged(fail, style)
    if style == "json":
        exception = json.loads(line)["exception"]
        assert exception.startswith("Traceback (most recent call last):\n")
        assert ", in fail\n" in exception
    else:
        assert re.search(r"ERROR -: it failed \| Traceback \(most recent call last\): \| File .*, in fail \| ", line)
        assert line.isprintable()
    assert "ValueError: a" in line


@pytest.mark.parametrize("style", logs.STYLES)
def test_no_text_makes_a_second_line(style: str) -> None:
    (line,) = logged(lambda: ours.info("%s", HOSTILE), style)
    assert line.isprintable()
    assert "a b" in line


@given(st.text(st.characters(), max_size=300), st.text(max_size=20))
def test_any_text_is_one_line(message: str, argument: str) -> None:
    record = logging.LogRecord("iem_dcr", logging.INFO, "", 0, message, (argument,), None)
    for formatter in (TextFormatter(), TextFormatter(journal=True), JsonFormatter()):
        line = formatter.format(record)
        assert line.isprintable()
        assert len(line) < 4000
        assert line.encode()
    assert set(json.loads(JsonFormatter().format(record))) == {"time", "level", "logger", "module_id", "message"}


def test_what_is_endless_is_cut() -> None:
    def endless() -> None:
        ours.info("x" * 1_000_000)
        try:
            broken("y" * 1_000_000)
        except ValueError:
            ours.exception("it failed")

    lines = logged(endless)
    assert [len(line) < logs.LONGEST_TRACEBACK + logs.LONGEST_MESSAGE for line in lines] == [True, True]


def test_arguments_that_do_not_fit() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError

    def speak() -> None:
        ours.info("%d of %d", "x")
        ours.info("%s", Unprintable())
        ours.info("after")

    first, second, third = logged(speak)
    assert first.endswith("INFO -: %d of %d (its arguments do not fit)")
    assert second.endswith("INFO -: %s (its arguments do not fit)")
    assert third.endswith("after")


def test_whose_log_from_which_level() -> None:
    def speak() -> None:
        for name in ("iem_dcr.driver", "aiohttp.client", "mqtt", "asyncio"):
            logging.getLogger(name).info("quiet %s", name)
            logging.getLogger(name).warning("loud %s", name)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("careful", RuntimeWarning, stacklevel=1)

    heard = [line.split(": ", 1)[1] for line in logged(speak)]
    assert heard[:5] == ["quiet iem_dcr.driver", "loud iem_dcr.driver", "loud aiohttp.client", "loud mqtt",
                         "loud asyncio"]  # fmt: skip
    assert "RuntimeWarning: careful" in heard[5]
    assert "quiet iem_dcr.driver" not in "".join(logged(speak, level=logging.WARNING))


def test_what_logged_before_logs_after() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("iem_dcr").level, logging.raiseExceptions
    logged(lambda: ours.error("x"))
    assert before == (root.handlers, root.level, logging.getLogger("iem_dcr").level, logging.raiseExceptions)


# --- standard error that is not well ---


def test_a_reader_that_left() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    handler = LineHandler(writing, TextFormatter())
    for number in range(10):
        handler.handle(logging.LogRecord("iem_dcr", logging.INFO, "", 0, str(number), (), None))
    handler.close()
    os.close(writing)


def test_a_pipe_that_nobody_empties_costs_lines_and_no_time() -> None:
    reading, writing = os.pipe()
    handler = LineHandler(writing, TextFormatter())
    count = logs.WAITING_LINES + 200
    for number in range(count):
        handler.handle(logging.LogRecord("iem_dcr", logging.INFO, "", 0, f"{number} " + "x" * 1000, (), None))
    # Now somebody reads, and the log goes on with word of what was lost.
    written: list[bytes] = []
    reader = threading.Thread(target=lambda: written.extend(iter(lambda: os.read(reading, 65536), b"")))
    reader.start()
    while not handler._lines.empty():
        pass
    handler.handle(logging.LogRecord("iem_dcr", logging.INFO, "", 0, "at last", (), None))
    handler.close()
    os.close(writing)
    reader.join()
    os.close(reading)
    lines = b"".join(written).decode().splitlines()
    lost = re.search(r"WARNING -: (\d+) lines of the log were lost", lines[-2])
    assert lost is not None
    assert len(lines) - 2 + int(lost[1]) == count
    assert lines[-1].endswith("at last")


def test_a_pipe_that_does_not_block() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    handler = LineHandler(writing, TextFormatter())
    for _ in range(200):
        handler.handle(logging.LogRecord("iem_dcr", logging.INFO, "", 0, "x" * 3000, (), None))
    written = b""
    while written.count(b"\n") < 200:
        written += os.read(reading, 65536)
    handler.close()
    os.close(writing)
    os.close(reading)
    assert all(line.endswith(b"x" * 3000) for line in written.splitlines())


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_no_standard_error_at_all(closed: str) -> None:
    program = (
        "import logging; from iem_dcr.service.logs import log_lines\n"
        "with log_lines('text', logging.INFO): logging.getLogger('iem_dcr').error('x')\n"
        "print('went on')"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("went on\n", "")


def test_what_is_the_journal() -> None:
    reading, writing = os.pipe()
    found = os.fstat(writing)
    assert is_journal(writing, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
    for stream in ("", "x", f"{found.st_dev}:{found.st_ino + 1}"):
        assert not is_journal(writing, {"JOURNAL_STREAM": stream})
    assert not is_journal(writing, {})
    os.close(reading)
    os.close(writing)
    assert not is_journal(writing, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
