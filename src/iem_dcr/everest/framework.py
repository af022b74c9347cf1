"""EVerest's framework as a station and as a log. Only this file imports everestpy (``everest.framework``).

everestpy comes with EVerest and is on no package index. It calls handlers on its own threads. It may be called from any
thread.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from everest.framework import Module, RuntimeSession, log

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.powermeter import Powermeter, StationError

IMPLEMENTATION: Final = "main"
"""Id of the implementation of `powermeter` in the manifest."""


class Framework:
    """A module's connection to EVerest, and the station of its driver. A call that EVerest refuses raises.

    Attributes:
        config: the module's configuration by key.
        log_handler: passes log records to EVerest's log.
    """

    def __init__(self) -> None:
        self._session = RuntimeSession()  # everestpy needs it to the end but holds no reference
        self._module = Module(self._session)
        log.update_process_name(self._module.info.id)
        self.config: dict[str, Any] = dict(self._module.say_hello().configs.module)
        self.log_handler: logging.Handler = _LogHandler()

    def implement(self, command: str, handler: Callable[[dict[str, Any]], dict[str, object]]) -> None:
        """Offer a command. The handler is called on a thread of the framework and must never raise."""
        self._module.implement_command(IMPLEMENTATION, command, handler)

    def init_done(self, on_ready: Callable[[], None]) -> None:
        """Report that all commands are offered. ``on_ready`` is called on another thread when all modules are ready."""
        self._module.init_done(on_ready)

    def on_shutdown(self, stop: Callable[[], None]) -> None:
        """Call ``stop`` at a graceful shutdown, if this version of everestpy supports it."""
        register = getattr(self._module, "shutdown_handler", None)
        if register is not None:
            register(stop)

    def publish_powermeter(self, value: Powermeter) -> None:
        """Publish the variable `powermeter`."""
        self._module.publish_variable(IMPLEMENTATION, "powermeter", value.to_json())

    def publish_public_key(self, key: str) -> None:
        """Publish the variable `public_key_ocmf`. Never publish an empty key: OCPP 1.6 would overwrite the good one."""
        self._module.publish_variable(IMPLEMENTATION, "public_key_ocmf", key)

    def raise_error(self, error: StationError) -> None:
        """Raise an error. An active error stays as it is."""
        factory = self._module.get_error_factory(IMPLEMENTATION)
        self._module.raise_error(IMPLEMENTATION, factory.create_error(error.type, error.sub_type, error.message))

    def clear_error(self, error: StationError) -> None:
        """Clear an error, whatever its message."""
        self._module.clear_error(IMPLEMENTATION, error.type, error.sub_type)

    def is_error_active(self, error: StationError) -> bool:
        """Return whether an error of this type and sub-type is active."""
        monitor = self._module.get_error_state_monitor_impl(IMPLEMENTATION)
        return bool(monitor.is_error_active(error.type, error.sub_type))


class _LogHandler(logging.Handler):
    """Passes log records to EVerest's log, which filters and formats them. Its levels have Python's names."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on one record."""
        try:
            text = self.format(record).encode("utf-8", "replace").decode()
            getattr(log, record.levelname.lower(), log.info)(text)
        except Exception:  # noqa: BLE001  as logging's own handlers do
            self.handleError(record)
