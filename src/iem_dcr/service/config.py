"""The service's configuration: a TOML file with ``[mqtt]``, ``[web]`` for a page, and a ``[[meter]]`` for each meter.

A file with mistakes is refused with all of them, each a line ``FILE: [table] key: what is expected``.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import stat
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from iem_dcr.config import AUTO, OFF, SETTINGS, Setting, Settings, shown, type_or_range
from iem_dcr.errors import ConfigError, printable
from iem_dcr.everest_api.mqtt_settings import PORT, PORT_TLS, PROTOCOLS, MqttSettings
from iem_dcr.everest_api.topics import is_module_id
from iem_dcr.service.web_settings import WEB, WebSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from iem_dcr.config import Value

T = TypeVar("T")

LARGEST_BYTES = 16 * 1024 * 1024
"""Largest file that is read; a thousand meters with every setting and comment are 4 MiB."""

MODULE_ID = "module_id"
MQTT: tuple[Setting, ...] = (
    Setting("host", "localhost", "Address or host name of the broker"),
    Setting("port", PORT, f"TCP port of the broker; without it {PORT}, or {PORT_TLS} with TLS", 1, 65535),
    Setting("user", "", "User name at the broker"),
    Setting("password", "", "Password of that user; better kept in a file of its own, see password_file"),
    Setting("password_file", "", "File with the password, read anew at every connection"),
    Setting(
        "protocol",
        PROTOCOLS[0],
        "Version of MQTT; with 5 the broker holds requests while this service restarts",
        choices=PROTOCOLS,
    ),
    Setting("client_id", "", "Name of this client at the broker; without it one is made from the module_ids"),
    Setting("tls", default=False, description="Encrypt the connection; the files below do so too"),
    Setting("ca_file", "", "Certificates (PEM) that the broker's is checked against; without it the host's"),
    Setting("cert_file", "", "Certificate of this client (PEM)"),
    Setting("key_file", "", "Private key of that certificate (PEM, not encrypted), if it is not in cert_file"),
)
"""The keys of ``[mqtt]``. Paths are relative to the folder of the configuration file; an empty text counts as none."""

_TABLES = {"mqtt": "[mqtt]", "web": "[web]", "meter": "[[meter]]"}
_ADDRESS = ("ip_address", "port_http")
_ANY_TABLE = "[mqtt], [web] or [[meter]]"
_FILES = ("password_file", "ca_file", "cert_file", "key_file")
_SECRETS = ("password", "token")
_SECRET_FILES = ("password_file", "key_file", "token_file")
_TLS_FILES = ("ca_file", "cert_file", "key_file")
_SYNTAX = re.compile(r"(?P<what>.*) \(at (?P<where>line \d+, column \d+|end of document)\)", re.DOTALL)
_PROBLEM = re.compile(r"(?P<key>\w+)(?: is (?P<value>.*): expected |:? )(?P<what>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """One ``[[meter]]``.

    Attributes:
        module_id: of EVerest's module `powermeter_API` that it is behind; None where that is to be found out.
        settings: of the meter.
    """

    module_id: str | None
    settings: Settings

    @property
    def address(self) -> str:
        """Address of the meter, ``host:port``."""
        host, port = self.settings.ip_address, self.settings.port_http
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """A configuration file without mistakes.

    Attributes:
        mqtt: how the broker is reached.
        meters: at least one; exactly one where a module_id is None.
        web: how the bring-up page is served, or None where it is not.
        warnings: a line for everything that is allowed and still not good.
    """

    mqtt: MqttSettings
    meters: tuple[MeterConfig, ...]
    web: WebSettings | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path) -> ServiceConfig:
        """Read and check a file.

        Raises:
            ConfigError: with a line for every mistake.
        """
        return _Reading(path, _read_toml(path)).config()

    @classmethod
    def load_meters(cls, path: Path) -> tuple[MeterConfig, ...]:
        """Read and check the ``[[meter]]`` tables alone: the broker and its files may be on another computer.

        Raises:
            ConfigError: with a line for every mistake in them.
        """
        return _Reading(path, _read_toml(path)).meters()


class _Reading:
    """One file being checked; collects what is wrong with it."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self._path = path
        self._document = document
        self._problems: list[str] = []
        self._warnings: list[str] = []

    def config(self) -> ServiceConfig:
        self._check_tables()
        mqtt = self._mqtt()
        web = self._web()
        meters = self._meters()
        if self._problems:
            raise ConfigError(self._problems)
        return ServiceConfig(cast("MqttSettings", mqtt), tuple(meters), web, tuple(self._warnings))

    def meters(self) -> tuple[MeterConfig, ...]:
        self._check_tables()
        meters = self._meters()
        if self._problems:
            raise ConfigError(self._problems)
        return tuple(meters)

    def _problem(self, where: str, what: str) -> None:
        problem = f"{printable(self._path, limit=300)}: {where}: {what}"
        if problem not in self._problems:
            self._problems.append(problem)

    def _warning(self, where: str, what: str) -> None:
        self._warnings.append(f"{printable(self._path, limit=300)}: {where}: {what}")

    def _check_tables(self) -> None:
        for name, value in self._document.items():
            if name in _TABLES:
                continue
            if isinstance(value, dict | list):
                close = _nearest(name, _TABLES, _TABLES.__getitem__)
                self._problem(f"[{_name(name)}]", f"no such table: {close or f'expected {_ANY_TABLE}'}")
            else:
                self._problem(_name(name), f"stands before any table: expected {_ANY_TABLE} above it")

    # --- [mqtt] ---

    def _mqtt(self) -> MqttSettings | None:
        given = self._given("mqtt", MQTT, _FILES)
        if given is None:
            return None
        if any(key in given for key in _TLS_FILES):
            given.setdefault("tls", True)
        self._check_files(given)
        return self._tried("[mqtt]", lambda: MqttSettings(**given))  # type: ignore[arg-type]  # checked against MQTT

    def _given(self, name: str, settings: tuple[Setting, ...], files: tuple[str, ...]) -> dict[str, Value] | None:
        """Return what is given in a table and of the right type and range, or None where it is no table."""
        where = f"[{name}]"
        table = self._document.get(name, {})
        if not isinstance(table, dict):
            self._problem(where, f"expected one table, not {_kind(table)}")
            return None
        self._check_keys(where, table, [setting.key for setting in settings])
        given: dict[str, Value] = {}
        for setting in settings:
            value = table.get(setting.key, "")
            if setting.key == "protocol" and type(value) is int:
                value = str(value)
            if value == "":
                continue
            expected = type_or_range(setting, value)
            if expected:
                got = "" if setting.key in _SECRETS else f", not {shown(value)}"
                self._problem(f"{where} {setting.key}", f"{expected}{got}")
            elif setting.key in files:
                given[setting.key] = str(self._path.parent / str(value))
            else:
                given[setting.key] = cast("Value", value)
        self._check_modes(where, given)
        return given

    def _check_files(self, given: Mapping[str, Value]) -> None:
        """Read every file, whatever else is wrong."""
        password, ca, cert, key = (cast("str | None", given.get(name)) for name in _FILES)
        if password:
            self._tried("[mqtt]", lambda: MqttSettings(user="-", password_file=password).current_password())
        if ca:
            self._tried("[mqtt]", lambda: MqttSettings(tls=True, ca_file=ca).tls_context())
        if cert:
            self._tried("[mqtt]", lambda: MqttSettings(tls=True, cert_file=cert, key_file=key).tls_context())

    def _tried(self, where: str, make: Callable[[], T]) -> T | None:
        """Return what is made of a table, or None and its problems."""
        try:
            return make()
        except ConfigError as error:
            for problem in error.problems:
                self._mistake(where, problem)
            return None

    def _mistake(self, where: str, problem: str) -> None:
        """Take up a problem of others: ``key is value: expected what``, or ``key`` and a sentence."""
        match = _PROBLEM.fullmatch(problem)
        if match is None:
            self._problem(where, problem)
        elif match["value"] is None:
            self._problem(f"{where} {match['key']}", match["what"])
        else:
            self._problem(f"{where} {match['key']}", f"expected {match['what']}, not {match['value']}")

    def _check_modes(self, where: str, given: Mapping[str, Value]) -> None:
        for key in _SECRETS:
            if key in given and _is_open_to_others(self._path):
                advice = f"chmod o-r it, or put the {key} into a {key}_file"
                self._warning(f"{where} {key}", f"this file can be read by everybody: {advice}")
        for key in _SECRET_FILES:
            if key in given and _is_open_to_others(Path(str(given[key]))):
                self._warning(f"{where} {key}", f"{printable(given[key])} can be read by everybody: chmod o-r it")

    # --- [web] ---

    def _web(self) -> WebSettings | None:
        """Return how the page is served, or None without a table ``[web]``, or where its ``listen`` is empty."""
        table = self._document.get("web")
        given = None if table is None else self._given("web", WEB, ("token_file",))
        if given is None:
            return None
        web = self._tried("[web]", lambda: WebSettings(**given))  # type: ignore[arg-type]  # checked against WEB
        if web is not None:
            self._tried("[web]", web.read_token)
        return None if isinstance(table, dict) and table.get("listen") == "" else web

    # --- [[meter]] ---

    def _meters(self) -> list[MeterConfig]:
        tables = self._document.get("meter", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._problem("[[meter]]", f"expected a table [[meter]] for each meter, not {_kind(tables)}")
            return []
        if not tables:
            self._problem("[[meter]]", "expected at least one")
        labels = [_label(number, table) for number, table in enumerate(tables, 1)]
        self._check_module_ids(tables, labels)
        meters = []
        for table, label in zip(tables, labels, strict=True):
            settings = self._settings(label, table)
            if settings is not None:
                meters.append(MeterConfig(table.get(MODULE_ID), settings))
        self._check_addresses(tables, labels)
        return meters

    def _check_module_ids(self, tables: list[dict[str, object]], labels: list[str]) -> None:
        first: dict[str, str] = {}
        for table, label in zip(tables, labels, strict=True):
            module_id = table.get(MODULE_ID)
            where = f"{label} {MODULE_ID}"
            if MODULE_ID not in table:
                if len(tables) > 1:
                    self._problem(where, "expected one for every meter where there is more than one")
            elif not isinstance(module_id, str) or not is_module_id(module_id):
                expected = "expected the id of EVerest's module powermeter_API: a text, not empty, without / + #"
                self._problem(where, f"{expected}, not {shown(module_id)}")
            elif module_id in first:
                self._problem(where, f"is that of {first[module_id]} already: expected another")
            else:
                first[module_id] = label

    def _settings(self, where: str, table: Mapping[str, object]) -> Settings | None:
        known = {setting.key: setting for setting in SETTINGS}
        self._check_keys(where, table, [MODULE_ID, *known])
        try:
            settings = Settings.of({key: value for key, value in table.items() if key in known})
        except ConfigError as error:
            for problem in error.problems:
                self._mistake(where, problem)
            return None
        if settings.journal_path in (AUTO, *OFF):
            return settings
        return replace(settings, journal_path=str(self._path.parent / settings.journal_path))

    def _check_addresses(self, tables: Iterable[Mapping[str, object]], labels: Iterable[str]) -> None:
        """Find meters that are there twice, whatever else is wrong with them."""
        first: dict[tuple[str, int], str] = {}
        for table, label in zip(tables, labels, strict=True):
            try:
                meter = MeterConfig(None, Settings.of({key: table[key] for key in _ADDRESS if key in table}))
            except ConfigError:
                continue
            address = same_host(meter.settings.ip_address), meter.settings.port_http
            if address in first:
                what = (
                    f"{meter.address} is the meter of {first[address]} already: expected another or another port_http"
                )
                self._problem(f"{label} ip_address", what)
            first.setdefault(address, label)

    def _check_keys(self, where: str, table: Mapping[str, object], known: Iterable[str]) -> None:
        for key in table:
            if key not in known:
                close = _nearest(key, known, str)
                self._problem(
                    f"{where} {_name(key)}", f"no such key: {close or 'expected one of ' + ', '.join(sorted(known))}"
                )


def _read_toml(path: Path) -> dict[str, Any]:
    def refused(what: str) -> ConfigError:
        return ConfigError([f"{printable(path, limit=300)}: {what}"])

    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise refused(f"cannot be read: {_why(error)}") from error
    if len(content) > LARGEST_BYTES:
        raise refused(f"is larger than {LARGEST_BYTES // 1024 // 1024} MiB")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise refused(f"line {line}: not UTF-8, in which TOML is written") from error
    except tomllib.TOMLDecodeError as error:
        raise refused(_syntax(error)) from error
    except (ValueError, RecursionError) as error:
        raise refused("not TOML that can be read: a number without end, or tables nested too deep") from error


def _syntax(error: tomllib.TOMLDecodeError) -> str:
    match = _SYNTAX.fullmatch(str(error))
    if match is None:
        return f"not TOML: {printable(error)}"
    return f"{match['where']}: not TOML: {printable(match['what'])}"


def _label(number: int, table: Mapping[str, object]) -> str:
    module_id = table.get(MODULE_ID)
    return f"[[meter]] {number}" + (f' ({MODULE_ID} "{_name(module_id)}")' if isinstance(module_id, str) else "")


def _name(text: str) -> str:
    return printable(text, limit=60)


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "a list"
    return "a table" if isinstance(value, dict) else shown(value)


def _nearest(word: str, known: Iterable[str], written: Callable[[str], str]) -> str:
    """Return a question for the known word that was probably meant, or ""."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(word[:60].lower(), by_lower, n=1)
    return f"did you mean {written(by_lower[close[0]])}?" if close else ""


def same_host(host: str) -> str:
    """Write an address or a host's name in the one way that makes equal ones equal."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.rstrip(".").lower()


def _is_open_to_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except (OSError, ValueError):
        return False


def _why(error: Exception) -> str:
    return printable((error.strerror if isinstance(error, OSError) else None) or error)
