"""How to reach a broker: address, user, TLS, protocol version. It imports no MQTT library."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import unquote, urlsplit

from iem_dcr.config import is_host, setting, settings_of, shown
from iem_dcr.errors import ConfigError, printable
from iem_dcr.plain_file import read_plain, read_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT: Final = 1883
PORT_TLS: Final = 8883
PROTOCOLS: Final = ("5", "3.1.1")

_LONGEST_TEXT = 65_535
"""Bytes of a text in an MQTT packet (MQTT 5, section 1.5.4)."""
_SCHEMES = {"mqtt": False, "mqtts": True}
_TLS_FILES = ("ca_file", "cert_file", "key_file")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_URL_EXPECTED = "expected mqtt://HOST[:PORT], or mqtts:// for TLS, with USER:PASSWORD@ before the host where needed"


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """How to reach a broker. An empty text means not given. Neither its repr nor any message shows the password.

    Raises:
        ConfigError: a setting is wrong. It has a line for every problem, which begins with the setting's name.
    """

    host: str = setting("localhost", "Address or host name of the broker, IPv6 without brackets")
    port: int = setting(0, f"TCP port of the broker; 0 is {PORT}, or {PORT_TLS} with TLS", 0, 65535)
    user: str = setting("", "User name at the broker")
    password: str = setting("", "Password of that user; password_file is safer", is_secret=True)
    password_file: str = setting("", "File with the password; it is read at every connection")
    protocol: str = setting(
        "5", "Version of MQTT; with 5 the broker holds requests while this service restarts", choices=PROTOCOLS
    )
    client_id: str = setting("", "Client id at the broker; by default it is made from the module_ids")
    tls: bool = setting(default=False, description="Encrypt the connection; each of the files below also turns this on")
    ca_file: str = setting("", "CA certificates (PEM) that verify the broker; by default those of the host")
    cert_file: str = setting("", "Certificate of this client (PEM)")
    key_file: str = setting("", "Private key of that certificate (PEM, not encrypted), if it is not in cert_file")

    def __post_init__(self) -> None:
        if self.port == 0:
            object.__setattr__(self, "port", PORT_TLS if self.tls else PORT)
        if problems := [*self._problems(), *self._file_problems()]:
            raise ConfigError(problems)

    @classmethod
    def from_url(cls, url: str, **others: str | None) -> MqttSettings:
        """Read ``mqtt://user:password@host:port``, or ``mqtts://`` for TLS; user and password may be %-encoded.

        Args:
            url: the address.
            others: further settings by name. None means not given.

        Raises:
            ConfigError: the URL or another setting is wrong. The message shows no password.
        """
        given = {name: value for name, value in others.items() if value is not None}
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            _refuse_url("it cannot be read")
        if parts.scheme not in _SCHEMES:
            _refuse_url("the scheme is another or missing")
        if not host:
            _refuse_url("the host is missing")
        if parts.path not in ("", "/") or parts.query or parts.fragment or port == 0:
            _refuse_url("a path, a query or port 0 means nothing to a broker")
        for name, text in (("user", parts.username), ("password", parts.password)):
            if text:
                if name in given or (name == "password" and "password_file" in given):
                    raise ConfigError([f"{name}: given in the URL and beside it; expected one of them"])
                given[name] = _unquoted(text)
        return cls(host=host, port=port or 0, tls=_SCHEMES[parts.scheme], **given)

    @property
    def address(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def current_password(self) -> str | None:
        """Return the current password. It reads ``password_file``.

        Raises:
            ConfigError: the file cannot be read or contains no valid password.
        """
        if not self.password_file:
            return self.password or None
        text = read_secret("password_file", self.password_file).rstrip("\r\n")
        if not text or len(text.encode()) > _LONGEST_TEXT:
            raise ConfigError([f"password_file {shown(self.password_file)} holds no password: expected one line"])
        return text

    def tls_context(self) -> ssl.SSLContext | None:
        """Make the TLS context, or return None without TLS. It reads files and may take a moment.

        Raises:
            ConfigError: a file cannot be read or has the wrong content.
        """
        if not self.tls:
            return None
        missing: list[str] = []
        for name in _TLS_FILES:  # OpenSSL does not say which file it cannot read
            path = getattr(self, name)
            try:
                if path:
                    read_plain(name, path)
            except ConfigError as error:
                missing += error.problems
        if missing:
            raise ConfigError(missing)
        what, expected = f"ca_file {shown(self.ca_file)}", "certificates in PEM"
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.cert_file:
                what = f"cert_file {shown(self.cert_file)}, key_file {shown(self.key_file)}"
                expected = "a certificate in PEM and the key that fits it, not encrypted"
                context.load_cert_chain(self.cert_file, self.key_file or None, password=_no_passphrase)
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else None
            raise ConfigError([f"{what}: {printable(reason or error)}; expected {expected}"]) from error
        return context

    def _problems(self) -> Iterator[str]:
        if not is_host(self.host):
            expected = "the address or host name of the broker, without scheme, port or path"
            yield f"host is {shown(self.host)}: expected {expected}"
        if not 1 <= self.port <= 65535:
            yield f"port is {shown(self.port)}: expected a number from 1 to 65535"
        if self.protocol not in PROTOCOLS:
            yield f"protocol is {shown(self.protocol)}: expected one of {', '.join(PROTOCOLS)}"
        for name in ("client_id", "user", "password"):
            text = getattr(self, name)
            if not text.isprintable() or len(text.encode()) > _LONGEST_TEXT:
                given = name if name == "password" else f"{name} is {shown(text)}"
                yield f"{given}: expected a text without control characters"

    def _file_problems(self) -> Iterator[str]:
        if self.password and self.password_file:
            yield "password_file: expected password or password_file, not both"
        if not self.user and (self.password or self.password_file):
            yield "user: expected one where there is a password"
        for name in ("password_file", *_TLS_FILES):
            value = getattr(self, name)
            if "\0" in value:
                yield f"{name} is {shown(value)}: expected the path of a file"
            if value and name in _TLS_FILES and not self.tls:
                yield f"{name} is {shown(value)}: expected TLS to be on (mqtts:// in an address)"
        if self.key_file and not self.cert_file:
            yield f"key_file is {shown(self.key_file)}: expected a cert_file beside it"


MQTT: Final = settings_of(MqttSettings)
"""The keys of ``[mqtt]``. Paths are relative to the configuration file's folder."""


def _unquoted(text: str) -> str:
    if _BAD_ESCAPE.search(text):
        _refuse_url("in user and password, % has to be written as %25")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        _refuse_url("user and password have to be UTF-8")


def _refuse_url(why: str) -> NoReturn:
    """Refuse a URL. Neither the message nor a chained error quotes it, because any part of it may be a password."""
    raise ConfigError([f"address of the broker: {_URL_EXPECTED}; {why}"]) from None


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted")
