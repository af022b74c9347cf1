"""Standard output that loses its reader, the log on standard error, and mistakes of the program itself."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from iem_dcr.cli.output import Output, log_on_stderr, set_verbosity
from tests.support.command_line import PATIENCE_S, environment


def test_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.line({"event": "receipt", "verified": None, "ocmf": 'OCMF|{"TT":"5 €"}|{}\x1b'})
    out, err = capsys.readouterr()
    assert out == '{"event":"receipt","verified":null,"ocmf":"OCMF|{\\"TT\\":\\"5 \\u20ac\\"}|{}\\u001b"}\n'
    assert err == ""
    assert output.status() == 0


def test_a_reader_that_left() -> None:
    read_end, write_end = os.pipe()
    told = []
    with os.fdopen(write_end, "w") as stream:
        output = Output(stream)
        output.when_lost = lambda: told.append(1)
        os.close(read_end)
        assert output.write("x" * 1_000_000) == 1_000_000
        for n in range(3):
            output.line({"n": n})
        assert told == [1]
        assert isinstance(output.error, BrokenPipeError)
        assert output.status() == 1


def test_a_full_disk() -> None:
    with Path("/dev/full").open("w") as stream:
        output = Output(stream)
        output.line({"n": 1})
        with pytest.raises(click.ClickException, match="cannot write to standard output: No space left"):
            output.status()


def test_device_text_means_nothing_to_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    Output().console().print("[bold]:smile: 12 'a' [/nope]")
    assert capsys.readouterr().out == "[bold]:smile: 12 'a' [/nope]\n"


def test_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("iem_dcr.somewhere")
    with log_on_stderr():
        for steps in (0, -3, 1, 9):
            set_verbosity(steps)
            for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
                log.log(level, "at %d", steps)
    log.error("behind it")
    expected = {0: "warning error", -3: "error", 1: "info warning error", 9: "debug info warning error"}
    lines = [f"{level}: at {steps}" for steps, levels in expected.items() for level in levels.split()]
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize(
    ("steps", "written"),
    [
        (0, r"error: it failed: KeyError: 'A\\nB' \(with -vv: where\)\n"),
        (2, r"error: it failed\nTraceback .*\nKeyError: 'A\\nB'\n"),
    ],
)
def test_an_exception_is_one_line_unless_asked(steps: int, written: str, capsys: pytest.CaptureFixture[str]) -> None:
    with log_on_stderr():
        set_verbosity(steps)
        try:
            os.environ["A\nB"]
        except KeyError:
            logging.getLogger("iem_dcr.cli").exception("it failed")
    assert re.fullmatch(written, capsys.readouterr().err, re.DOTALL)


@pytest.mark.parametrize(
    ("arguments", "closed", "status"),
    [("config example", ">&-", 0), ("verify", "<&-", 2), ("receipts list --journal nowhere", "<&- >&- 2>&-", 2)],
)
def test_a_stream_that_is_closed_is_as_the_null_device(arguments: str, closed: str, status: int) -> None:
    command = f'exec "{sys.executable}" -m iem_dcr {arguments} {closed}'
    done = subprocess.run(
        ["sh", "-c", command], env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout) == (status, "")


def test_nothing_takes_the_number_of_a_closed_stream() -> None:
    script = "from iem_dcr.cli import output; output.open_closed_streams(); print(open('/dev/null').fileno())"
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -c "{script}" <&- 2>&-'], capture_output=True, text=True, check=False
    )
    assert int(done.stdout) > 2
