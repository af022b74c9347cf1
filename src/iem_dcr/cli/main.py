"""The command ``iem-dcr``: its group of commands, and what its exit status means.

======  =============================================================================================
0       done
1       it failed: the meter does not answer, a transaction did not begin, a receipt does not verify
2       the command line or a configuration file is wrong; nothing was sent to any meter. What examines (doctor,
        verify): it could not be examined
130     interrupted
======  =============================================================================================
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, NoReturn, cast

try:
    import click
except ImportError:
    sys.exit("iem-dcr: the command line needs the extra 'tools': pip install 'iem-dcr[tools]'")

from iem_dcr.cli.arguments import common
from iem_dcr.cli.interruption import EXIT_INTERRUPTED
from iem_dcr.cli.output import log_on_stderr, open_closed_streams, tell
from iem_dcr.errors import ConfigError, IemDcrError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_FAILURE = 1
EXIT_USAGE = 2

_COMMANDS = (
    "config",
    "demo",
    "discover",
    "doctor",
    "everest",
    "read",
    "receipts",
    "record",
    "run",
    "session",
    "simulate",
    "verify",
    "watch",
)
log = logging.getLogger("iem_dcr.cli")


class _Commands(click.Group):
    """Imports the module of a command when it is called: reading a meter needs no simulator."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  the signature is click's
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  as above
        if cmd_name not in _COMMANDS:
            return None
        return cast("click.Command", importlib.import_module(f"iem_dcr.cli.{cmd_name}").command)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Try it without a meter: iem-dcr demo",
)
@common
def cli() -> None:
    """Drive, read and simulate an Isabellenhuette IEM-DCR, the DC energy meter that signs charging sessions."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status.

    Args:
        arguments: of the command line, without the program's name; None takes those of the process.
    """
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
    except ConfigError as error:
        tell("Error: " + "\n".join(error.problems))
        return EXIT_USAGE
    except (IemDcrError, OSError) as error:
        tell(f"Error: {error}")
        return EXIT_FAILURE
    except Exception:
        log.exception("iem-dcr failed, which is a mistake in the program")
        return EXIT_FAILURE
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    main()
