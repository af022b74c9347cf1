"""What is there before a command runs: Ctrl-C while modules are imported, a bare install, the list of commands."""

from __future__ import annotations

import fcntl
import importlib
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from iem_dcr import __version__
from iem_dcr.cli.exit_codes import EXIT_CODES
from iem_dcr.cli.main import cli
from tests.support.command_line import PATIENCE_S, run

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.7])
def test_ctrl_c_while_modules_are_imported(share: float) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "iem_dcr", "demo", "--help"]
    whole = subprocess.run(command, capture_output=True, text=True, check=False).stderr.splitlines()
    ours = re.compile(r"import time: .* iem_dcr\.cli\.startup$")  # from then on it answers Ctrl-C
    (begin,) = (number for number, line in enumerate(whole, 2) if ours.match(line))
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # A page of lines fills the pipe: it cannot come to its end before its lines are read.
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        for _ in range(begin + int(share * (len(whole) - begin))):
            process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    said = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, said) == (130, ["Interrupted."])


def test_where_sigint_is_ignored_it_stays_ignored() -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from iem_dcr.cli.startup import exit_on_ctrl_c, raise_on_ctrl_c\n"
        "exit_on_ctrl_c(); signal.raise_signal(signal.SIGINT); raise_on_ctrl_c(); signal.raise_signal(signal.SIGINT)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("package", "extra"), [("click", "tools"), ("rich", "tools"), ("amqtt", "demo")])
def test_a_package_that_is_missing_is_named(package: str, extra: str) -> None:
    def iem_dcr(*words: str) -> tuple[int, str, str]:
        code = f"import sys; sys.modules[{package!r}] = None; from iem_dcr.__main__ import main; main()"
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert iem_dcr("--version") == (0, f"iem-dcr {__version__}\n", "")
    status, _, err = iem_dcr("demo", "--seconds", "2")
    assert status == 2
    assert err.startswith(f"Error: the package {package} is missing: pip install '.[{extra}]' in the clone, or pip ")


def test_every_command_is_there() -> None:
    folder = ROOT / "src" / "iem_dcr" / "cli"
    found = {file.stem for file in folder.glob("*.py") if "\ndef command(" in file.read_text("utf-8")}
    assert found == {*cli.commands}
    for name in found:
        assert importlib.import_module(f"iem_dcr.cli.{name}").command.name == name


def test_the_help_imports_no_command() -> None:
    code = "import sys; from iem_dcr.cli.main import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded.isdisjoint({"rich", "asyncio", "cryptography", "iem_dcr.config", "iem_dcr.cli.read"})


def test_a_command_that_is_mistyped_is_guessed() -> None:
    done = run("sesion")
    assert (done.status, done.out) == (2, "")
    assert "No such command 'sesion'. Did you mean 'session'?" in done.err


def test_the_table_of_exit_codes() -> None:
    shown = " ".join(run("--help").out.split())
    page = (ROOT / "README.md").read_text("utf-8")
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in shown
        assert f"| {code} | {meaning} |" in page
