"""The exit statuses of all commands. ``iem-dcr --help`` and README.md show this table."""

from __future__ import annotations

from typing import Final

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

EXIT_CODES: Final = {
    0: "Done.",
    EXIT_FAILURE: "Failure: a meter or broker does not answer, a transaction cannot begin, a receipt is not valid.",
    EXIT_USAGE: "Wrong input: the command line, a configuration file, or a missing file.",
    EXIT_INTERRUPTED: "Interrupted.",
}
