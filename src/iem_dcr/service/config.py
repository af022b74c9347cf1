"""The configuration file of ``iem-dcr run``: TOML with ``[mqtt]``, ``[web]`` and a ``[[meter]]`` for each meter.

A file with mistakes is refused. The error lists all of them, a line ``FILE: [table] key is value: expected what`` each.
"""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import stat
import tomllib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from iem_dcr.config import AUTO, OFF, SETTINGS, Settings, shown
from iem_dcr.errors import ConfigError, printable
from iem_dcr.everest_api.mqtt_settings import MQTT, MqttSettings
from iem_dcr.everest_api.topics import is_module_id
from iem_dcr.service.web_settings import WEB, WebSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from iem_dcr.config import Setting

T = TypeVar("T")

MAX_BYTES: Final = 16 * 1024 * 1024
"""Largest file that is read. A thousand meters with every setting and comment take 4 MiB."""

MODULE_ID: Final = "module_id"
_TABLES: Final = ("mqtt", "web", "meter")
_ANY_TABLE: Final = "[mqtt], [web] or [[meter]]"
_METER_KEYS: Final = (MODULE_ID, *(setting.key for setting in SETTINGS))
_TLS_FILES: Final = ("ca_file", "cert_file", "key_file")
_SECRETS: Final = ("password", "token")
_SECRET_FILES: Final = ("password_file", "key_file", "token_file")


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """One ``[[meter]]``.

    Attributes:
        module_id: of the meter's module `powermeter_API` in EVerest; None if it is to be discovered.
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
        mqtt: connection settings of the broker.
        meters: at least one; exactly one if a module_id is None.
        web: settings of the page, or None without a page.
        warnings: a line for each setting that is allowed but risky.
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
        file = _File(path)
        mqtt, web, meters = file.mqtt(), file.web(), file.meters()
        file.refuse_mistakes()
        return cls(mqtt, meters, web, tuple(file.warnings))

    @classmethod
    def load_meters(cls, path: Path) -> tuple[MeterConfig, ...]:
        """Read and check only the ``[[meter]]`` tables. The files of ``[mqtt]`` may be on another computer.

        Raises:
            ConfigError: with a line for every mistake in them.
        """
        file = _File(path)
        meters = file.meters()
        file.refuse_mistakes()
        return meters


class _File:
    """A file that is being read. The methods return the content of a table, and collect its mistakes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = printable(path, limit=300)
        self._document = _read_toml(path)
        self._mistakes: list[str] = []
        self.warnings: list[str] = []
        for name, value in self._document.items():
            if name not in _TABLES and isinstance(value, dict | list):
                self._mistake(f"[{_name(name)}]: no such table: expected {_ANY_TABLE}")
            elif name not in _TABLES:
                self._mistake(f"{_name(name)}: stands before any table: expected {_ANY_TABLE} above it")

    def refuse_mistakes(self) -> None:
        """Raise a ConfigError if there are mistakes. A mistake that was found twice is listed once."""
        if self._mistakes:
            raise ConfigError(list(dict.fromkeys(self._mistakes)))

    def mqtt(self) -> MqttSettings:
        given = self._given("mqtt", MQTT)
        if any(key in given for key in _TLS_FILES):
            given.setdefault("tls", True)
        # Each file is also tried alone, so that mistakes elsewhere do not hide its own.
        for names in (("password_file",), ("ca_file",), ("cert_file", "key_file")):
            files = {name: given[name] for name in names if name in given}
            if names[0] in files:
                self._attempt("[mqtt]", partial(_try_files, files))
        return self._attempt("[mqtt]", partial(MqttSettings, **given)) or MqttSettings()

    def web(self) -> WebSettings | None:
        """Return None if there is no table ``[web]``, or if its ``listen`` is empty."""
        if "web" not in self._document:
            return None
        table, settings = self._document["web"], self._attempt("[web]", partial(WebSettings, **self._given("web", WEB)))
        if settings is not None:
            self._attempt("[web]", settings.read_token)
        return None if isinstance(table, dict) and table.get("listen") == "" else settings

    def meters(self) -> tuple[MeterConfig, ...]:
        tables = self._document.get("meter", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._mistake("[[meter]]: expected a table [[meter]], in two brackets, for each meter")
            return ()
        if not tables:
            self._mistake("[[meter]]: expected at least one")
        meters = []
        labels: dict[object, str] = {}
        for number, table in enumerate(tables, 1):
            module_id = table.get(MODULE_ID)
            named = f' ({MODULE_ID} "{_name(module_id)}")' if isinstance(module_id, str) else ""
            where = f"[[meter]] {number}{named}"
            self._check_module_id(where, table, labels, is_only=len(tables) == 1)
            self._check_keys(where, table, _METER_KEYS)
            known = {key: table[key] for key in _METER_KEYS if key in table and key != MODULE_ID}
            settings = self._attempt(where, partial(Settings.of, known))
            if settings is not None:
                if settings.journal_path not in (AUTO, *OFF):
                    settings = replace(settings, journal_path=str(self._path.parent / settings.journal_path))
                meters.append(MeterConfig(module_id, settings))
            self._check_address(where, table, labels)
        return tuple(meters)

    def _given(self, name: str, settings: tuple[Setting, ...]) -> dict[str, Any]:
        """Return the given values of a table that have the right type and range."""
        where, table = f"[{name}]", self._document.get(name, {})
        if not isinstance(table, dict):
            self._mistake(f"{where}: expected one table")
            return {}
        self._check_keys(where, table, [setting.key for setting in settings])
        given: dict[str, Any] = {}
        for setting in settings:
            key, value = setting.key, table.get(setting.key, "")
            if key == "protocol" and type(value) is int:
                value = str(value)
            if value == "":
                continue
            if not setting.accepts(value):
                what = key if key in _SECRETS else f"{key} is {shown(value)}"
                self._mistake(f"{where} {what}: expected {setting.expected}")
                continue
            given[key] = str(self._path.parent / value) if key.endswith("_file") else value
            if key in _SECRETS and _is_open_to_others(self._path):
                advice = f"chmod o-r it, or put the {key} into a {key}_file"
                self.warnings.append(f"{self._name}: {where} {key}: all users can read this file: {advice}")
            if key in _SECRET_FILES and _is_open_to_others(given[key]):
                what = f"all users can read {printable(given[key])}: chmod o-r it"
                self.warnings.append(f"{self._name}: {where} {key}: {what}")
        return given

    def _check_keys(self, where: str, table: Mapping[str, object], known: Iterable[str]) -> None:
        for key in table:
            if key not in known:
                by_lower = {each.lower(): each for each in known}
                nearest = difflib.get_close_matches(key[:60].lower(), by_lower, n=1)
                hint = (
                    f"did you mean {by_lower[nearest[0]]}?"
                    if nearest
                    else f"expected one of {', '.join(sorted(known))}"
                )
                self._mistake(f"{where} {_name(key)}: no such key: {hint}")

    def _check_module_id(
        self, where: str, table: Mapping[str, object], labels: dict[object, str], *, is_only: bool
    ) -> None:
        module_id = table.get(MODULE_ID)
        if MODULE_ID not in table:
            if not is_only:
                self._mistake(f"{where} {MODULE_ID}: expected one for every meter if there is more than one")
        elif not isinstance(module_id, str) or not is_module_id(module_id):
            expected = "expected the id of EVerest's module powermeter_API: a text, not empty, without / + #"
            self._mistake(f"{where} {MODULE_ID} is {shown(module_id)}: {expected}")
        elif labels.setdefault(module_id, where) != where:
            self._mistake(f"{where} {MODULE_ID}: is already that of {labels[module_id]}: expected another")

    def _check_address(self, where: str, table: Mapping[str, object], labels: dict[object, str]) -> None:
        """Find a meter that is configured twice, even if it has other mistakes."""
        with contextlib.suppress(ConfigError):
            meter = MeterConfig(
                None, Settings.of({key: table[key] for key in ("ip_address", "port_http") if key in table})
            )
            first = labels.setdefault((same_host(meter.settings.ip_address), meter.settings.port_http), where)
            if first != where:
                what = f"{meter.address} is already the meter of {first}: expected another address or port_http"
                self._mistake(f"{where} ip_address: {what}")

    def _attempt(self, where: str, make: Callable[[], T]) -> T | None:
        """Return the result of ``make``, or collect its mistakes and return None."""
        try:
            return make()
        except ConfigError as error:
            for problem in error.problems:
                self._mistake(f"{where} {problem}")
            return None

    def _mistake(self, text: str) -> None:
        self._mistakes.append(f"{self._name}: {text}")


def _try_files(files: dict[str, Any]) -> None:
    settings = MqttSettings(user="-", tls=True, **files)
    settings.current_password()
    settings.tls_context()


def same_host(host: str) -> str:
    """Return the canonical form of an address or host name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.rstrip(".").lower()


def _read_toml(path: Path) -> dict[str, Any]:
    def refusal(what: str) -> ConfigError:
        return ConfigError([f"{printable(path, limit=300)}: {what}"])

    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise refusal(f"cannot be read: {printable(why or error)}") from error
    if len(content) > MAX_BYTES:
        raise refusal(f"is larger than {MAX_BYTES // 1024 // 1024} MiB")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise refusal(f"line {line}: not UTF-8, in which TOML is written") from error
    except (ValueError, RecursionError) as error:
        raise refusal(f"not TOML: {printable(error)}") from error


def _name(text: str) -> str:
    return printable(text, limit=60)


def _is_open_to_others(path: Path | str) -> bool:
    try:
        return bool(Path(path).stat().st_mode & stat.S_IROTH)
    except (OSError, ValueError):
        return False
