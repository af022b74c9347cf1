"""What is needed before anything else is imported: an answer to Ctrl-C, and one where a package is missing."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from iem_dcr import __version__
from iem_dcr.cli.exit_codes import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from types import FrameType


def exit_on_ctrl_c() -> None:
    """Let Ctrl-C end the process at once: for the time in which modules are imported or the interpreter ends.

    A KeyboardInterrupt there comes out as a traceback, or is lost in code that ignores exceptions. Where SIGINT is
    ignored (nohup, a background job of a script) it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_on_ctrl_c() -> None:
    """Undo `exit_on_ctrl_c`: Ctrl-C raises KeyboardInterrupt, so that a command can clean up."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Say which package to install; None where it is none of another project, and so a mistake in this one."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "iem_dcr") or package in sys.stdlib_module_names:
        return None
    extra = "demo" if package == "amqtt" else "tools"
    wheel = f"iem_dcr-{__version__}-py3-none-any.whl"
    commands = f"pip install '.[{extra}]' in the clone, or pip install '{wheel}[{extra}]'"
    return f"Error: the package {package} is missing: {commands}"


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    os.write(2, b"Interrupted.\n")
    os._exit(EXIT_INTERRUPTED)
