"""The commands of ``iem-dcr``, each imported when it is called, and the handling of their errors."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from iem_dcr.cli.arguments import common
from iem_dcr.cli.exit_codes import EXIT_CODES, EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE
from iem_dcr.cli.output import log_on_stderr, open_closed_streams, tell
from iem_dcr.cli.startup import missing_package, raise_on_ctrl_c
from iem_dcr.errors import ConfigError, IemDcrError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = {
    "config": "Check the service's configuration, or see an example.",
    "demo": "Show a session at a simulated meter behind EVerest's API.",
    "discover": "List the power meter APIs of an EVerest.",
    "doctor": "Find out what is wrong with a meter, and what to do.",
    "everest": "Install the EVerest module.",
    "read": "Read a meter once.",
    "receipts": "List, show, export or erase the receipts of a journal; accept a new meter.",
    "record": "Save every answer of a meter in a folder.",
    "run": "Drive meters behind EVerest's MQTT API.",
    "session": "Run a charging session and print its receipt.",
    "simulate": "Run a simulated meter.",
    "verify": "Check receipts.",
    "watch": "Watch meters live.",
}
"""The help text of each command by its name, which is also the name of its module."""
_log = logging.getLogger("iem_dcr.cli")


class _LazyGroup(click.Group):
    """Knows the names and short help texts, and imports the module of a command when it is called."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import the command that is called."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            command = importlib.import_module(f"iem_dcr.cli.{name}").command
        return name, command, rest

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the exit status means."""
        with formatter.section("Exit status"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])
        super().format_epilog(ctx, formatter)


@click.group(
    cls=_LazyGroup,
    commands=[click.Command(name, short_help=text) for name, text in _COMMANDS.items()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Try it without a meter: iem-dcr demo",
)
@common
def cli() -> None:
    """Drive, read and simulate an Isabellenhuette IEM-DCR, the DC energy meter that signs charging sessions."""
    raise_on_ctrl_c()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, without the program's name, and exit with its status. None takes that of the process."""
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    with log_on_stderr():
        sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        status = cli.main(arguments, prog_name="iem-dcr", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        tell("Interrupted.")
        return EXIT_INTERRUPTED
    except ConfigError as error:  # each problem of a file begins with its name
        tell("\n".join(error.problems))
        return EXIT_USAGE
    except (IemDcrError, OSError) as error:
        tell(f"Error: {error}")
        return EXIT_FAILURE
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and missing_package(error):
            raise
        _log.exception("iem-dcr failed because of a bug in the program")
        return EXIT_FAILURE
    return status if isinstance(status, int) else 0
