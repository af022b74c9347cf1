"""``iem-dcr everest``: the EVerest module IsabellenhuetteIemDcr, put among a charger's modules and taken away again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from iem_dcr import __version__
from iem_dcr.cli.arguments import common, usage_error
from iem_dcr.cli.terminal import Output
from iem_dcr.errors import ConfigError, printable
from iem_dcr.everest import installation

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.everest.installation import Findings, Installed

F = TypeVar("F", bound="Callable[..., object]")

EXIT_UNWELL = 1


def _place(command: F) -> F:
    """Add what says where the module is: PREFIX and --name."""
    prefix = click.argument("prefix", type=click.Path(path_type=Path), metavar="PREFIX")
    name = click.option(
        "--name",
        default=installation.MODULE_NAME,
        show_default=True,
        metavar="NAME",
        help="The module's name there, as in the charger's configuration.",
    )
    return prefix(name(command))


@click.group(name="everest", short_help="Install the EVerest module.")
@common
def command() -> None:
    """Install the EVerest module IsabellenhuetteIemDcr below PREFIX, where EVerest is installed."""


@command.command(short_help="Put the module among EVerest's modules.")
@_place
@click.option(
    "--venv/--no-venv",
    default=True,
    show_default=True,
    help="Make .venv beside module.py, with all it needs. EVerest uses that by itself; without it, its own python3.",
)
@click.option("--force", is_flag=True, help="Replace the module that is there.")
@common
def install(prefix: Path, name: str, *, venv: bool, force: bool) -> int:
    """Put the module into PREFIX/libexec/everest/modules/NAME. Nothing is overwritten without --force."""
    try:
        installed = installation.install(prefix, name, venv=venv, force=force)
    except ConfigError as error:
        raise usage_error(error) from error
    output = Output()
    output.write(_told(installed) + f"See whether it starts: iem-dcr everest check {_words(prefix, name)}\n")
    output.flush()
    return output.status()


@command.command(short_help="Remove the module.")
@_place
@common
def uninstall(prefix: Path, name: str) -> int:
    """Remove PREFIX/libexec/everest/modules/NAME, if it is this module."""
    try:
        folder = installation.uninstall(prefix, name)
    except ConfigError as error:
        raise usage_error(error) from error
    output = Output()
    output.write(f"Removed {printable(folder, limit=300)}\n")
    output.flush()
    return output.status()


@command.command(short_help="Say what is there, and whether it starts.")
@_place
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@common
def check(prefix: Path, name: str, *, as_json: bool) -> int:
    """Say what is in PREFIX/libexec/everest/modules/NAME, and whether module.py would start. Nothing is changed.

    The exit status is 0 when all is well, else 1.
    """
    try:
        findings = installation.check(prefix, name)
    except ConfigError as error:
        raise usage_error(error) from error
    output = Output()
    if as_json:
        output.line(findings.to_json())
    else:
        output.write(_shown(findings))
        output.flush()
    return EXIT_UNWELL if findings.problems else output.status()


def _told(installed: Installed) -> str:
    lines = [f"Installed version {__version__} in {printable(installed.folder, limit=300)}"]
    if installed.replaced is not None:
        lines.append(f"  Replaced     {installed.replaced}")
    made = installed.environment
    if made is None:
        lines.append("  Environment  none; the python3 that EVerest starts has to have iem-dcr installed")
    else:
        source = "copied from here" if made.copied else "installed by pip"
        lines.append(f"  Environment  Python {made.python}, {', '.join(made.contents)}, {source}")
    if installed.everestpy_python is not None:
        lines.append(f"  everestpy    built for Python {installed.everestpy_python}")
    elif made is None:
        lines.append("  everestpy    not found, or its Python cannot be told")
    else:
        lines.append("  everestpy    not found, or its Python cannot be told: the one that runs this was taken")
    return "\n".join(lines) + "\n"


def _shown(findings: Findings) -> str:
    built_for = f"for Python {findings.everestpy_python}" if findings.everestpy_python else "for a Python not known"
    rows = [
        ("Module", findings.found or "not installed"),
        ("Package", f"version {findings.version}" if findings.version else "none"),
        ("Manifest", f"{'that' if findings.manifest_equal else 'not that'} of version {__version__}"),
        ("Python", f"{findings.python}, {printable(findings.interpreter, limit=300)}" if findings.python else "none"),
        ("everestpy", built_for if findings.everestpy else "none"),
        ("Starts", "yes" if findings.starts else "no"),
    ]
    lines = [printable(findings.folder, limit=300)]
    lines += [f"  {name:<10} {text}" for name, text in rows]
    lines += [f"Problem: {printable(problem, limit=600)}" for problem in findings.problems]
    return "\n".join(lines) + "\n"


def _words(prefix: Path, name: str) -> str:
    words = shlex.quote(printable(prefix, limit=300))
    return words if name == installation.MODULE_NAME else f"{words} --name {name}"
