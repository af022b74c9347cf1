"""A module's end of EVerest's framework."""

from __future__ import annotations

import os
import threading
import traceback
import weakref
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ._link import die, link, setup
from .error import Error, Errors

if TYPE_CHECKING:
    from collections.abc import Callable

_ONLY = "main"
"""The one implementation of a module."""


class RuntimeSession:
    """What a module needs to reach EVerest; a module lives no longer than its session."""


class Module:
    """The module as EVerest sees it; every method may be called from any thread."""

    def __init__(self, session: RuntimeSession, /) -> None:
        link()  # before any thread asks for it
        # C++ holds a bare reference to the session.
        weakref.finalize(session, die, "the RuntimeSession is gone: keep a reference to it").atexit = False
        self.info = SimpleNamespace(id=os.environ["EV_MODULE"])
        self._interface: dict[str, Any] = setup()["interface"]
        self._errors = {_ONLY: Errors(self._interface["errors"], map(tuple, setup()["active_errors"]))}
        self._handlers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self._on_ready: Callable[[], None] | None = None
        self._on_shutdown: Callable[[], None] | None = None
        self._is_initialised = False
        # Calls of one command come one after the other, unless the test wants it harder.
        calls_at_once = 100 if setup()["is_overlapping"] else 1
        self._pools = defaultdict[str, ThreadPoolExecutor](partial(ThreadPoolExecutor, calls_at_once))
        if setup()["has_shutdown_handler"]:  # newer versions of everestpy only
            self.shutdown_handler = self._shutdown_handler
        threading.Thread(target=self._receive, name="everest-mqtt", daemon=True).start()

    def say_hello(self) -> Any:
        """Return the charger's configuration of this module."""
        configs = SimpleNamespace(module=dict(setup()["config"]), implementations={_ONLY: {}})
        return SimpleNamespace(configs=configs, connections={})

    def implement_command(self, impl_id: str, name: str, handler: Callable[[dict[str, Any]], Any], /) -> None:
        """Have a command of the interface handled, on one of the framework's threads."""
        if name not in self._declared(impl_id, "cmds") or name in self._handlers:
            raise RuntimeError(f"{impl_id}.{name} is no command of the interface, or has a handler already")
        self._handlers[name] = handler

    def init_done(self, on_ready: Callable[[], None] | None = None, /) -> None:
        """Say that this module may be told ready; ``on_ready`` is called from another thread when all modules are."""
        if missing := self._interface["cmds"].keys() - self._handlers.keys():
            raise RuntimeError(f"not all commands are provided; missing: {sorted(missing)}")
        self._on_ready = on_ready
        self._is_initialised = True
        link().send("init_done")

    def publish_variable(self, impl_id: str, name: str, value: Any, /) -> None:
        """Publish a variable of the interface."""
        if not self._is_initialised or name not in self._declared(impl_id, "vars"):
            raise RuntimeError(f"{impl_id}.{name} is published before init_done, or is no variable of the interface")
        link().send("published", variable=name, value=value)

    def get_error_factory(self, impl_id: str, /) -> Errors:
        """Return what makes the implementation's errors."""
        return self._errors[impl_id]

    def raise_error(self, impl_id: str, error: Error, /) -> None:
        """Raise an error."""
        self._errors[impl_id].raise_error(error)

    def clear_error(self, impl_id: str, type: str, sub_type: str) -> None:  # noqa: A002  everestpy's own name
        """Clear an error."""
        self._errors[impl_id].clear_error(type, sub_type)

    def get_error_state_monitor_impl(self, impl_id: str, /) -> Errors:
        """Return what knows which errors of the implementation are active."""
        return self._errors[impl_id]

    def _shutdown_handler(self, handler: Callable[[], None], /) -> None:
        self._on_shutdown = handler

    def _declared(self, impl_id: str, part: str) -> Any:
        if impl_id != _ONLY:
            raise RuntimeError(f"the manifest provides no implementation {impl_id!r}")
        return self._interface[part]

    def _receive(self) -> None:
        for message in link().received():
            match message["ask"]:
                case "ready":
                    self._on_a_thread("ready", self._on_ready)
                case "shutdown":
                    self._on_a_thread("shutdown", self._on_shutdown)
                case "call" if self._is_initialised:
                    self._pools[message["command"]].submit(self._handle, message)
                case "call":
                    link().send("refused", id=message["id"], reason="it is called before init_done")
        die("the test has gone away")

    def _on_a_thread(self, name: str, callback: Callable[[], None] | None) -> None:
        if callback is not None:
            threading.Thread(target=_guarded, args=(name, callback), daemon=True).start()

    def _handle(self, message: dict[str, Any]) -> None:
        call, command = message["id"], message["command"]
        link().send("called", id=call, command=command, thread=threading.get_ident())
        result = _guarded(command, lambda: self._handlers[command](message["args"]))
        _guarded(command, lambda: link().send("answered", id=call, command=command, value=result))


def _guarded(name: str, callback: Callable[[], Any]) -> Any:
    """Call what the module has registered; whatever it raises ends the process."""
    try:
        return callback()
    except BaseException:  # noqa: BLE001  C++ has no other way for any of them
        die(f"terminate called: exception during handling of {name}\n{traceback.format_exc()}")
