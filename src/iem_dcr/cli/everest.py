"""``iem-dcr everest``: installs, checks and removes the EVerest module IsabellenhuetteIemDcr of a charger."""

from __future__ import annotations

import contextlib
import shlex
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from iem_dcr import __version__
from iem_dcr.cli.arguments import common
from iem_dcr.cli.exit_codes import EXIT_FAILURE
from iem_dcr.cli.output import Output
from iem_dcr.errors import printable
from iem_dcr.everest import check as checks
from iem_dcr.everest import install as installation
from iem_dcr.everest.check import MODULE_NAME
from iem_dcr.journaling import SYSTEM_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from iem_dcr.everest.check import Findings
    from iem_dcr.everest.install import Installed

F = TypeVar("F", bound="Callable[..., object]")


def _place(command: F) -> F:
    """Add PREFIX and --name, which say where the module is."""
    prefix = click.argument("prefix", type=click.Path(path_type=Path), metavar="PREFIX")
    name = click.option(
        "--name",
        default=MODULE_NAME,
        show_default=True,
        metavar="NAME",
        help="Name of the module in the charger's configuration.",
    )
    return prefix(name(command))


@click.group(name="everest")
@common
def command() -> None:
    """Install the EVerest module IsabellenhuetteIemDcr below PREFIX, where EVerest is installed."""


@command.command(short_help="Install the module.")
@_place
@click.option(
    "--venv/--no-venv",
    default=True,
    show_default=True,
    help="Make .venv beside module.py with all it needs. EVerest uses it if it exists, else its own python3.",
)
@click.option(
    "--wheels",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Install these wheels into .venv with pip, without an index. By default the running packages are copied.",
)
@click.option(
    "--user",
    metavar="NAME",
    help="The user that EVerest runs as. It can start the module and owns the state folder.  [default: root]",
)
@click.option(
    "--state-folder",
    "state",
    type=click.Path(path_type=Path),
    default=SYSTEM_FOLDER,
    show_default=True,
    metavar="FOLDER",
    help="Folder to create for the journal of receipts; only root creates it.",
)
@click.option("--force", is_flag=True, help="Replace an installed module.")
@common
def install(
    prefix: Path, name: str, *, venv: bool, wheels: Path | None, user: str | None, state: Path, force: bool
) -> int:
    """Install the module into PREFIX/libexec/everest/modules/NAME, and check that it starts.

    Nothing is overwritten without --force. A failed or interrupted installation leaves everything as it was.
    """
    if wheels is not None and not venv:
        raise click.UsageError("--wheels fills .venv: leave out --no-venv")
    with _interrupted_by_signals():
        done = installation.install(prefix, name, venv=venv, wheels=wheels, force=force, state=state, user=user)
    output = Output()
    output.write(_installed_text(done))
    if done.environment is None:
        output.write(f"Check whether it starts: iem-dcr everest check {_words(prefix, name)}\n")
    output.flush()
    return output.status()


@command.command(short_help="Remove the module.")
@_place
@common
def uninstall(prefix: Path, name: str) -> int:
    """Remove PREFIX/libexec/everest/modules/NAME, if it is this module."""
    with _interrupted_by_signals():
        folder = installation.uninstall(prefix, name)
    output = Output()
    output.write(f"Removed {printable(folder, limit=300)}\n")
    output.flush()
    return output.status()


@command.command(short_help="Show what is installed, and whether it starts.")
@_place
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@common
def check(prefix: Path, name: str, *, as_json: bool) -> int:
    """Show what is in PREFIX/libexec/everest/modules/NAME, and whether module.py starts. Nothing is changed.

    The exit status is 0 if there are no problems, else 1.
    """
    findings = checks.check(prefix, name)
    output = Output()
    if as_json:
        output.line(asdict(findings))
    else:
        output.write(_findings_text(findings))
        output.flush()
    return EXIT_FAILURE if findings.problems else output.status()


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Make the first terminating signal undo the unfinished work, and ignore further ones meanwhile."""
    came: list[int] = []

    def interrupt(number: int, _: object) -> None:
        came.append(number)
        if len(came) == 1:
            raise KeyboardInterrupt

    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handled = [number for number in ending if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _installed_text(done: Installed) -> str:
    unknown = "its Python version is not known" + ("" if done.environment is None else ": the running one was used")
    rows = {
        "Replaced": done.replaced,
        "Environment": done.environment or "none; the python3 that EVerest starts needs iem-dcr installed",
        "everestpy": f"built for Python {done.everestpy_python}" if done.everestpy_python else unknown,
        "Starts": done.environment and "yes",
        "Receipts": done.state,
    }
    return _table(f"Installed version {__version__} in {printable(done.folder, limit=300)}", rows)


def _findings_text(findings: Findings) -> str:
    built_for = f"for Python {findings.everestpy_python}" if findings.everestpy_python else "for an unknown Python"
    rows = {
        "Module": findings.found or "not installed",
        "Package": f"version {findings.version}" if findings.version else "none",
        "Manifest": f"{'that' if findings.manifest_equal else 'not that'} of version {__version__}",
        "Python": f"{findings.python}, {printable(findings.interpreter, limit=300)}" if findings.python else "none",
        "everestpy": built_for if findings.everestpy else "none",
        "Starts": "yes" if findings.starts else "no",
    }
    problems = [f"Problem: {printable(problem, limit=600)}\n" for problem in findings.problems]
    return _table(printable(findings.folder, limit=300), rows) + "".join(problems)


def _table(head: str, rows: Mapping[str, str | None]) -> str:
    width = max(map(len, rows)) + 2
    return "".join([f"{head}\n", *(f"  {name:<{width}}{text}\n" for name, text in rows.items() if text is not None)])


def _words(prefix: Path, name: str) -> str:
    words = shlex.quote(printable(prefix, limit=300))
    return words if name == MODULE_NAME else f"{words} --name {name}"
