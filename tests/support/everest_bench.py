"""Runs a Python module as EVerest's manager runs it, with a double of everestpy, and plays the rest of the charger."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import yaml

from tests.support import everest_types
from tests.support.shared import SHARED, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

T = TypeVar("T")

DOUBLE = Path(__file__).resolve().parent / "everest_double"
"""What stands in place of ``PREFIX/lib/everest/everestpy``."""

PATIENCE_S = 120.0
"""After this time without what is waited for, a test has failed."""

POLL_S = 0.02
"""How often a predicate is asked again when the module does nothing: it may look at something else."""


class ModuleDied(AssertionError):  # noqa: N818  named for what has happened
    """The module's process ended; in a charger everything ends with it."""


class CommandRefused(AssertionError):  # noqa: N818  as ModuleDied
    """EVerest would not have delivered a command."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something the module did; ``at`` is a time of `time.monotonic`, the same clock as the test's.

    What came with it are attributes: a published ``value``, ``level`` and ``text`` of a line of the log; of an error
    ``change`` (raised or cleared), ``effective`` (False if nothing changed), ``type``, ``sub_type`` and ``severity``.
    """

    at: float
    name: str
    data: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


class EverestBench:
    """A module's process, from its start as a context manager to its end; every method is for the test's thread.

    At the end all that was published and answered is held against EVerest's definitions.

    Args:
        module_py: the program, as it lies in the module's folder. A ``manifest.yaml`` beside it gives the defaults.
        config: what the charger's configuration sets.
        interpreter: the Python to run it with.
        environment: more variables; a PYTHONPATH comes behind the framework's, and this process's behind it.
        shutdown_handler: whether this version of everestpy has one.
        overlapping: calls of one command do not wait for each other, which is harder than everestpy.
        active_errors: type and sub-type of what is active from the start.

    Raises:
        ValueError: the manager would not hand the configuration on as it is.
    """

    def __init__(
        self,
        module_py: Path,
        config: Mapping[str, Any] | None = None,
        *,
        interpreter: str | Path = sys.executable,
        environment: Mapping[str, str] | None = None,
        shutdown_handler: bool = False,
        overlapping: bool = False,
        active_errors: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._command = [str(interpreter), str(module_py.resolve())]
        self._environment = dict(environment or {})
        self._active_at_start = tuple(active_errors)
        self._interface = definition("powermeter")
        self._setup = {
            "config": configuration(module_py, config or {}),
            "interface": self._interface,
            "active_errors": self._active_at_start,
            "has_shutdown_handler": shutdown_handler,
            "is_overlapping": overlapping,
        }
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._events: list[Event] = []
        self._futures: dict[int, Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self._connection: socket.socket | None = None
        self._over = False
        self._stderr = b""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="everest-")))
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(POLL_S)
            environment = self._prepared(folder, listener.getsockname()[1])
            self._process = stack.enter_context(
                subprocess.Popen(
                    self._command,
                    cwd=folder / "manager",
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
            )
            stack.callback(self._process.kill)
            collector = threading.Thread(target=self._collect)
            listening = threading.Thread(target=self._listen, args=(listener, collector))
            for thread in (collector, listening):
                thread.start()
            stack.callback(listening.join)
            stack.callback(self._process.kill)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        sent = [(self._interface["vars"][event.variable], event.value) for event in self.events_of("published")]
        sent += [(self._interface["cmds"][it.command]["result"], it.value) for it in self.events_of("answered")]
        for schema, value in () if kind else sent:
            if problems := everest_types.problems(schema, value):
                raise AssertionError(f"EVerest refuses {value}: {problems}")

    # What the charger does

    def wait_ready_to_be_told(self) -> None:
        """Wait for the module's init_done."""
        self.wait_for(lambda: self.events_of("init_done"))

    def ready(self) -> float:
        """Wait for init_done, tell the module that all are ready, and return when it was told."""
        self.wait_ready_to_be_told()
        at = time.monotonic()
        self._send(ask="ready")
        return at

    def call(self, command: str, args: dict[str, Any]) -> dict[str, Any]:
        """Call a command and wait for its result.

        Raises:
            CommandRefused: it comes before init_done.
            ModuleDied: the module ends before it answers.
            TimeoutError: no answer comes.
        """
        return self.call_async(command, args).result(PATIENCE_S)

    def call_async(self, command: str, args: dict[str, Any]) -> Future[dict[str, Any]]:
        """Call a command, with arguments as the interface defines them, and return what will hold its result."""
        schemas = self._interface["cmds"][command]["arguments"]
        assert args.keys() == schemas.keys()
        for name, value in args.items():
            assert everest_types.problems(schemas[name], value) == []
        future: Future[dict[str, Any]] = Future()
        call = next(self._ids)
        with self._changed:
            self._futures[call] = future
        self._send(ask="call", id=call, command=command, args=args)
        return future

    def shutdown(self) -> None:
        """Send the message of a graceful shutdown, whose handler the module may have."""
        self._send(ask="shutdown")

    def sigterm(self) -> int:
        """Stop the module as the manager does; return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait_exit()

    def kill(self) -> None:
        """End the module as a power failure ends it; one that has ended stays as it is."""
        self._process.kill()
        self.wait_exit()

    def wait_exit(self) -> int:
        """Wait for the process's end, until all that it did and wrote has come, and return its exit code."""
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the module still runs after {PATIENCE_S} s: {self.events[-3:]}") from None
        with self._changed:
            assert self._changed.wait_for(lambda: self._over, PATIENCE_S)
        return code

    # What the module did

    @property
    def events(self) -> list[Event]:
        """Everything, in the order it happened in the module."""
        with self._changed:
            return list(self._events)

    def events_of(self, name: str) -> list[Event]:
        """The events of a name."""
        return [event for event in self.events if event.name == name]

    def published(self, variable: str) -> list[Event]:
        """What was published of a variable, in order."""
        return [event for event in self.events_of("published") if event.variable == variable]

    @property
    def errors_log(self) -> list[Event]:
        """Every raise and clear, those without effect too."""
        return self.events_of("error")

    @property
    def errors_active(self) -> set[tuple[str, str]]:
        """Type and sub-type of the active errors."""
        active = set(self._active_at_start)
        for it in self.errors_log:
            (active.add if it.change == "raised" else active.discard)((it.type, it.sub_type))
        return active

    @property
    def log_lines(self) -> list[Event]:
        """What the module has logged with EVerest's log, of all levels."""
        return self.events_of("log")

    @property
    def stderr(self) -> str:
        """What came on standard error, where the log's lines do not go: tracebacks and warnings."""
        return self._stderr.decode("utf-8", "replace")

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the process ended, None while it runs."""
        return self._process.poll()

    def wait_for(self, predicate: Callable[[], T | None]) -> T:
        """Wait until a predicate holds, here or in something else the test has, and return what it gave.

        Raises:
            ModuleDied: the module ended and it does not hold.
            TimeoutError: it did not hold in time.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with self._changed:
                over, seen = self._over, len(self._events)
            if found := predicate():
                return found
            if over:
                raise self._died()
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {PATIENCE_S} s; the last events: {self.events[-5:]}")
            with self._changed:
                if len(self._events) == seen and not self._over:
                    self._changed.wait(POLL_S)

    def _prepared(self, folder: Path, port: int) -> dict[str, str]:
        """Lay out what a process finds on a charger and return its environment."""
        (folder / "manager").mkdir()
        setup = folder / "setup.json"
        setup.write_text(json.dumps(self._setup), encoding="utf-8")
        python_path = [str(DOUBLE), self._environment.get("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "EV_MODULE": "meter",
            **self._environment,
            "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
            "EV_DOUBLE_PORT": str(port),
            "EV_DOUBLE_SETUP": str(setup),
        }

    def _collect(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._stderr += line

    def _listen(self, listener: socket.socket, collector: threading.Thread) -> None:
        """Take in what the module tells, to its end; calls that are open then get no answer any more."""
        connection = None
        while connection is None and self._process.poll() is None:
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if connection is not None:
            connection.settimeout(None)
            with connection, connection.makefile("rb") as lines, contextlib.suppress(ConnectionError):
                with self._changed:
                    self._connection = connection
                    self._changed.notify_all()
                for line in lines:
                    self._take(json.loads(line))
        self._process.wait()
        collector.join()
        with self._changed:
            self._connection = None
            self._over = True
            futures = list(self._futures.values())
            self._futures.clear()
            self._changed.notify_all()
        for future in futures:
            future.set_exception(self._died())

    def _take(self, data: dict[str, Any]) -> None:
        event = Event(data.pop("at"), data.pop("event"), data)
        with self._changed:
            self._events.append(event)
            future = self._futures.pop(data["id"]) if event.name in ("answered", "refused") else None
            self._changed.notify_all()
        if future is None:
            return
        if event.name == "answered":
            future.set_result(data["value"])
        else:
            future.set_exception(CommandRefused(data["reason"]))

    def _send(self, **message: Any) -> None:
        connection = self.wait_for(lambda: self._connection)
        with self._sending, contextlib.suppress(OSError):  # it is just ending; whoever waits for an answer is told
            connection.sendall(json.dumps(message).encode() + b"\n")

    def _died(self) -> ModuleDied:
        return ModuleDied(f"the module has ended with exit code {self.exit_code}:\n{self.stderr[-4000:]}")


IN_OUR_WORDS: dict[str, Any] = {
    "cmds": {
        "start_transaction": {
            "arguments": {"value": {"type": "object", "required": ["transaction_id", "evse_id"]}},
            "result": {"type": "object", "required": ["status"]},
        },
        "stop_transaction": {
            "arguments": {"transaction_id": {"type": "string"}},
            "result": {"type": "object", "required": ["status"]},
        },
    },
    "vars": {
        "powermeter": {"type": "object", "required": ["timestamp", "energy_Wh_import"]},
        "public_key_ocmf": {"type": "string"},
    },
    "errors": ["powermeter/CommunicationFault", "powermeter/VendorError", "powermeter/VendorWarning"],
}
"""As much of the interface of a power meter as the module uses, for where EVerest's own definition is not at hand."""


@cache
def definition(interface: str) -> dict[str, Any]:
    """An interface of EVerest with every type in its place and its errors by their full names."""
    if interface == "powermeter" and not SHARED.is_dir():
        return IN_OUR_WORDS
    found = everest_types.of_interface(interface)
    types = []
    for reference in found.pop("errors", []):
        path = reference["reference"].removeprefix("/")
        content = yaml.safe_load(shared(f"everest/{path}.yaml").read_text(encoding="utf-8"))
        types += [f"{path.removeprefix('errors/')}/{error['name']}" for error in content["errors"]]
    return found | {"errors": types}


def configuration(module_py: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the manager hands over: the charger's settings and the manifest's defaults, a number always as a float.

    Raises:
        ValueError: When a setting is not in the manifest (the manager drops it), or one without default is missing.
    """
    manifest = module_py.resolve().parent / "manifest.yaml"
    if not manifest.exists():
        return dict(config)
    schemas: dict[str, Any] = yaml.safe_load(manifest.read_text(encoding="utf-8")).get("config", {})
    given = {key: schema["default"] for key, schema in schemas.items() if "default" in schema} | dict(config)
    if odd := given.keys() ^ schemas.keys():
        message = f"not in the manifest, or missing and without default: {sorted(odd)}"
        raise ValueError(message)
    numbers: Sequence[str] = [key for key, schema in schemas.items() if schema["type"] == "number"]
    return {key: float(value) if key in numbers else value for key, value in given.items()}
