"""The service's log: one line a record, whatever is in it and whoever reads it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iem_dcr.everest_api.meter_api import METER
from iem_dcr.service import log
from iem_dcr.service.log import JsonFormatter, LineHandler, TextFormatter, log_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ours = logging.getLogger("iem_dcr.test")
HOSTILE = "a\nb\r\nc\x1b[2J\x85\u2028d\x00\ud800"
JOURNAL = "DEVICE:INODE"
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
    work: Callable[[], object], style: str = "text", level: int = logging.INFO, *, journal: str = "1:1"
) -> list[str]:
    """Do something and return the lines it logged to standard error, which is a pipe.

    In ``journal``, DEVICE and INODE stand for the pipe's own.
    """
    reading, writing = os.pipe()
    found = os.fstat(writing)
    stream = journal.replace("DEVICE", str(found.st_dev)).replace("INODE", str(found.st_ino))
    with open(reading, encoding="utf-8") as read:  # noqa: PTH123  it is a descriptor
        with (
            open(writing, "w", encoding="utf-8") as written,  # noqa: PTH123
            contextlib.redirect_stderr(written),
            log_lines(style, level, {"JOURNAL_STREAM": stream} if stream else {}),
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


@pytest.mark.parametrize("journal", ["", "x", "DEVICE:1", "1:INODE"])
def test_text(journal: str) -> None:
    first, second = logged(tell, journal=journal)
    assert re.fullmatch(rf"{TIME} INFO -: began", first)
    assert re.fullmatch(rf"{TIME} WARNING pm1: the meter at 10\.0\.0\.1:80", second)


def test_the_journal_gets_priorities_and_no_time() -> None:
    def all_levels() -> None:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            ours.log(level, "x")

    lines = logged(all_levels, level=logging.DEBUG, journal=JOURNAL)
    assert lines == ["<7>DEBUG -: x", "<6>INFO -: x", "<4>WARNING -: x", "<3>ERROR -: x", "<2>CRITICAL -: x"]


def test_json() -> None:
    first, second = (json.loads(line) for line in logged(tell, "json", journal=JOURNAL))
    assert re.fullmatch(TIME, first.pop("time"))
    assert first == {"level": "INFO", "logger": "iem_dcr.test", "module_id": "", "message": "began"}
    assert (second["module_id"], second["message"]) == ("pm1", "the meter at 10.0.0.1:80")


@pytest.mark.parametrize("style", log.STYLES)
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


@example(HOSTILE, "")
@given(st.text(st.characters(), max_size=300), st.text(max_size=20))
def test_any_text_is_one_line(message: str, argument: str) -> None:
    record = logging.LogRecord("iem_dcr", logging.INFO, "", 0, message, (argument,), None)
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(record)
        assert line.isprintable()
        assert len(line) < 4000
        assert line.encode()
    assert set(json.loads(JsonFormatter().format(record))) == {"time", "level", "logger", "module_id", "message"}


@pytest.mark.parametrize("style", log.STYLES)
def test_what_is_endless_is_cut(style: str) -> None:
    def endless() -> None:
        ours.info("x" * 1_000_000)
        try:
            broken("y" * 1_000_000)
        except ValueError:
            ours.exception("it failed")

    lines = logged(endless, style)
    assert [len(line) < log.MAX_TRACEBACK + log.MAX_MESSAGE for line in lines] == [True, True]


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


# --- standard error that is not well ---


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("iem_dcr", logging.INFO, "", 0, text, (), None)


def test_a_pipe_that_nobody_empties_costs_lines_and_no_time() -> None:
    reading, writing = os.pipe()
    with open(writing, "w", encoding="utf-8") as stream:  # noqa: PTH123
        handler = LineHandler(stream, TextFormatter())
        count = log.MAX_WAITING_LINES + 200
        for number in range(count):
            handler.handle(record(f"{number} " + "x" * 1000))
        # Now somebody reads, and the log goes on with the number of lost lines. More can be lost just after it.
        text = b""
        while b" were lost" not in text:
            text += os.read(reading, 65536)
            handler.handle(record("at last"))
            count += 1
        handler.close()
    with open(reading, "rb") as rest:  # noqa: PTH123
        lines = (text + rest.read()).decode().splitlines()
    lost = [int(n) for line in lines for n in re.findall(r"WARNING -: (\d+) lines of the log were lost", line)]
    assert all(lost)
    assert len(lines) - len(lost) + sum(lost) == count
    assert lines[-1].endswith("INFO -: at last")


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_no_standard_error_at_all(closed: str) -> None:
    program = (
        "import logging; from iem_dcr.service.log import log_lines\n"
        "with log_lines('text', logging.INFO): logging.getLogger('iem_dcr').error('x')\n"
        "print('went on')"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("went on\n", "")
