"""EVerest's framework as this module uses it. The one file that imports everestpy (``everest.framework``).

everestpy comes with EVerest and is on no package index. It calls handlers on threads of its own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from everest.framework import Module, RuntimeSession, log

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.powermeter import StationError

IMPLEMENTATION = "main"
"""Implementation id of the interface `powermeter` in the manifest."""


class Framework:
    """A module's connection to EVerest.

    Attributes:
        config: the module's configuration, by key.
    """

    def __init__(self) -> None:
        # The session has to live as long as the module.
        self._session = RuntimeSession()
        self._module = Module(self._session)
        log.update_process_name(self._module.info.id)
        self.config: dict[str, Any] = dict(self._module.say_hello().configs.module)

    def implement(self, command: str, handler: Callable[[dict[str, Any]], dict[str, object]]) -> None:
        """Offer a command. The handler is called on a thread of the framework's and must never raise."""
        self._module.implement_command(IMPLEMENTATION, command, handler)

    def init_done(self, on_ready: Callable[[], None]) -> None:
        """Say that everything is offered; ``on_ready`` is called from another thread when all modules are."""
        self._module.init_done(on_ready)

    def on_shutdown(self, stop: Callable[[], None]) -> None:
        """Have ``stop`` called at a graceful shutdown, where this everestpy knows one."""
        register = getattr(self._module, "shutdown_handler", None)
        if register is not None:
            register(stop)

    def publish(self, variable: str, value: object) -> None:
        """Publish a variable: JSON types only."""
        self._module.publish_variable(IMPLEMENTATION, variable, value)

    def raise_error(self, error: StationError) -> None:
        """Raise an error of the interface."""
        factory = self._module.get_error_factory(IMPLEMENTATION)
        self._module.raise_error(IMPLEMENTATION, factory.create_error(error.type, error.sub_type, error.message))

    def clear_error(self, error_type: str, sub_type: str) -> None:
        """Clear an error of the interface."""
        self._module.clear_error(IMPLEMENTATION, error_type, sub_type)

    def is_error_active(self, error_type: str, sub_type: str) -> bool:
        """Tell whether EVerest holds an error of this module's for active."""
        monitor = self._module.get_error_state_monitor_impl(IMPLEMENTATION)
        return bool(monitor.is_error_active(error_type, sub_type))


class EverestLogHandler(logging.Handler):
    """Hands log records to EVerest's log, which filters and formats them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over one record, at EVerest's nearest level."""
        try:
            text = self.format(record).encode("utf-8", "replace").decode()
            if record.levelno >= logging.CRITICAL:
                log.critical(text)
            elif record.levelno >= logging.ERROR:
                log.error(text)
            elif record.levelno >= logging.WARNING:
                log.warning(text)
            elif record.levelno >= logging.INFO:
                log.info(text)
            else:
                log.debug(text)
        except Exception:  # noqa: BLE001  logging's own way for a handler that fails
            self.handleError(record)
