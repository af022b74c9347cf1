"""Needed before anything else is imported: the handling of Ctrl-C, and the message about a missing package."""

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
    """Make Ctrl-C end the process at once, while modules are imported and while the interpreter ends.

    A KeyboardInterrupt there prints a traceback, or is lost in code that ignores exceptions. If SIGINT is ignored
    (nohup, a background job of a script), it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_on_ctrl_c() -> None:
    """Undo `exit_on_ctrl_c`: Ctrl-C raises KeyboardInterrupt, so that a command can clean up."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Return an error message with the package to install; None if the module is not from another project's package."""
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
