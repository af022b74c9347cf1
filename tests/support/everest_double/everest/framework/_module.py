"""A module's end of EVerest's framework."""

from __future__ import annotations

import os
import threading
import traceback
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from ._check import check
from ._link import die, link, setup
from ._pool import Pool
from .error import ActiveErrors, Error, ErrorFactory

if TYPE_CHECKING:
    from collections.abc import Callable

_OFFERS_SHUTDOWN_HANDLER = os.environ.get("EV_DOUBLE_SHUTDOWN_HANDLER") == "1"
"""Only newer versions of everestpy have one."""
_IS_OVERLAPPING = os.environ.get("EV_DOUBLE_OVERLAPPING") == "1"
"""Every call gets a thread of its own."""


class RuntimeSession:
    """What a module needs to reach EVerest; a module lives no longer than its session.

    Raises:
        RuntimeError: When a variable that the manager sets is missing.
    """

    def __init__(self) -> None:
        for name in ("EV_MODULE", "EV_LOG_CONF_FILE", "EV_MQTT_BROKER_SOCKET_PATH"):
            if name not in os.environ:
                message = f"{name} needed for everestpy"
                raise RuntimeError(message)
        link().send("session")


@dataclass(frozen=True)
class ModuleInfo:
    """Who the module is in the charger's configuration."""

    id: str


@dataclass(frozen=True)
class Configurations:
    """The charger's configuration of the module and of its implementations."""

    module: dict[str, Any]
    implementations: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class ModuleSetup:
    """What a module is told when it says hello."""

    configs: Configurations
    connections: dict[str, list[Any]] = field(default_factory=dict)


class Module:
    """The module as EVerest sees it; every method may be called from any thread."""

    @overload
    def __init__(self, session: RuntimeSession, /) -> None: ...

    @overload
    def __init__(self, module_id: str, session: RuntimeSession, /) -> None: ...

    def __init__(self, *arguments: Any) -> None:
        match arguments:
            case (RuntimeSession() as session,):
                module_id = os.environ["EV_MODULE"]
            case (str(module_id), RuntimeSession() as session):
                pass
            case _:
                message = f"Module(): incompatible constructor arguments: {arguments}"
                raise TypeError(message)
        if not os.environ.get("EV_MQTT_EVEREST_PREFIX", "").endswith("/"):
            message = "timeout while waiting for the module's configuration: is EV_MQTT_EVEREST_PREFIX set?"
            raise RuntimeError(message)
        self.info = ModuleInfo(module_id)
        self._session = weakref.ref(session)
        self._interfaces: dict[str, dict[str, Any]] = setup()["implementations"]
        active = [(str(type_), str(sub_type)) for type_, sub_type in setup()["active_errors"]]
        self._errors = {name: ActiveErrors(name, it["errors"], active) for name, it in self._interfaces.items()}
        self._handlers: dict[tuple[str, str], Callable[[dict[str, Any]], Any]] = {}
        self._on_ready: Callable[[], None] | None = None
        self._on_shutdown: Callable[[], None] | None = None
        self._initialised = False
        self._pool = Pool()
        link().send("module", id=module_id)
        threading.Thread(target=self._receive, name="everest-mqtt", daemon=True).start()

    def say_hello(self) -> ModuleSetup:
        """Return the charger's configuration of this module."""
        self._check_session()
        link().send("hello")
        return ModuleSetup(Configurations(dict(setup()["config"]), {name: {} for name in self._interfaces}))

    def implement_command(self, impl_id: str, name: str, handler: Callable[[dict[str, Any]], Any], /) -> None:
        """Have a command of the interface handled, on one of the framework's threads.

        Raises:
            RuntimeError: When there is no such command, or it is implemented already.
        """
        self._check_session()
        if name not in self._part(impl_id, "cmds"):
            message = f"{impl_id} has no command {name!r} in its interface"
            raise RuntimeError(message)
        if (impl_id, name) in self._handlers:
            message = f"a handler of {impl_id}.{name} is registered already"
            raise RuntimeError(message)
        self._handlers[impl_id, name] = handler
        link().send("implemented", implementation=impl_id, command=name)

    def init_done(self, on_ready: Callable[[], None] | None = None, /) -> None:
        """Say that this module may be told ready; ``on_ready`` is called from another thread when all modules are.

        Raises:
            RuntimeError: When a command of the interface is not implemented.
        """
        self._check_session()
        declared = {(name, command) for name, interface in self._interfaces.items() for command in interface["cmds"]}
        if missing := declared - self._handlers.keys():
            message = f"not all commands are provided; missing: {sorted(missing)}"
            raise RuntimeError(message)
        self._on_ready = on_ready
        self._initialised = True
        link().send("init_done")

    if _OFFERS_SHUTDOWN_HANDLER:

        def shutdown_handler(self, handler: Callable[[], None], /) -> None:
            """Have a handler called, from another thread, when the charger is shut down in peace."""
            self._check_session()
            self._on_shutdown = handler
            link().send("shutdown_handler")

    def publish_variable(self, impl_id: str, name: str, value: Any, /) -> None:
        """Publish a variable of the interface.

        Raises:
            RuntimeError: Before init_done, and when the value is not what the interface defines.
        """
        self._check_session()
        if not self._initialised:
            message = f"{impl_id}.{name} is published before init_done"
            raise RuntimeError(message)
        variables = self._part(impl_id, "vars")
        if name not in variables:
            message = f"{impl_id} has no variable {name!r} in its interface"
            raise RuntimeError(message)
        if wrong := check(variables[name], value):
            message = f"{impl_id}.{name} could not be validated with its schema: {wrong}"
            raise RuntimeError(message)
        link().send("published", implementation=impl_id, variable=name, value=value)

    def get_error_factory(self, impl_id: str, /) -> ErrorFactory:
        """Return what makes the implementation's errors."""
        self._check_session()
        return ErrorFactory(self._part(impl_id, "errors"))

    def raise_error(self, impl_id: str, error: Error, /) -> None:
        """Raise an error."""
        self._check_session()
        self._errors_of(impl_id).raise_error(error)

    def clear_error(self, impl_id: str, type: str, sub_type: str) -> None:  # noqa: A002 - everestpy's own name
        """Clear an error."""
        self._check_session()
        self._errors_of(impl_id).clear_error(type, sub_type)

    def get_error_state_monitor_impl(self, impl_id: str, /) -> ActiveErrors:
        """Return what knows which errors of the implementation are active."""
        self._check_session()
        return self._errors_of(impl_id)

    def _check_session(self) -> None:
        """C++ holds a bare reference to the session: a use after its end is the end of the process."""
        if self._session() is None:
            die("the RuntimeSession is gone, but its module is used: keep a reference to the session")

    def _part(self, impl_id: str, part: str) -> Any:
        if impl_id not in self._interfaces:
            message = f"the manifest provides no implementation {impl_id!r}"
            raise RuntimeError(message)
        return self._interfaces[impl_id][part]

    def _errors_of(self, impl_id: str) -> ActiveErrors:
        self._part(impl_id, "errors")
        return self._errors[impl_id]

    def _receive(self) -> None:
        for message in link().received():
            self._check_session()
            match message["ask"]:
                case "ready":
                    self._on_a_thread("ready", self._on_ready)
                case "shutdown":
                    self._on_a_thread("shutdown", self._on_shutdown)
                case "call":
                    self._call(message)
        die("the test has gone away")

    def _on_a_thread(self, name: str, callback: Callable[[], None] | None) -> None:
        def run() -> None:
            if callback is not None:
                link().send(f"{name}_called", thread=threading.get_ident())
                guarded(name, callback)
                link().send(f"{name}_returned")

        threading.Thread(target=run, name=f"everest-{name}", daemon=True).start()

    def _call(self, message: dict[str, Any]) -> None:
        call, impl_id, command = message["id"], message["implementation"], message["command"]
        if not self._initialised:
            link().send("refused", id=call, reason=f"{impl_id}.{command} is called before init_done")
            return
        handler = self._handlers[impl_id, command]

        def handle() -> None:
            link().send("called", id=call, command=command, thread=threading.get_ident())
            result = guarded(f"{impl_id}.{command}", lambda: handler(message["args"]))
            if wrong := check(self._part(impl_id, "cmds")[command]["result"], result):
                die(f"the result of {impl_id}.{command} could not be validated with its schema: {wrong}")
            self._check_session()
            link().send("answered", id=call, command=command, value=result)

        if _IS_OVERLAPPING:
            threading.Thread(target=handle, name=f"everest-call-{call}", daemon=True).start()
        else:
            self._pool.submit(f"{impl_id}.{command}", handle)


def guarded(name: str, callback: Callable[[], Any]) -> Any:
    """Call what the module has registered; whatever it raises ends the process."""
    try:
        return callback()
    except BaseException:  # noqa: BLE001 - C++ has no other way for any of them
        die(f"terminate called: exception during handling of {name}\n{traceback.format_exc()}")
