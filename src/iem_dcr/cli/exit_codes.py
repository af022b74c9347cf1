"""The exit status of every command. ``iem-dcr --help`` and README.md show this table."""

from __future__ import annotations

from typing import Final

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

EXIT_CODES: Final = {
    0: "Done.",
    EXIT_FAILURE: "It failed: a meter or broker does not answer, a transaction does not begin, a receipt is not valid.",
    EXIT_USAGE: "What was given is wrong: the command line, a configuration file, a file that is missing.",
    EXIT_INTERRUPTED: "Interrupted.",
}
