"""How to reach a broker: address, user, TLS, protocol version. It imports no MQTT library."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import unquote, urlsplit

from iem_dcr.config import is_host, shown
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
    """How to reach a broker. Neither its repr nor any message shows the password.

    Attributes:
        host: address (IPv6 without brackets) or host name of the broker.
        port: TCP port. 0 becomes 1883, or 8883 with TLS.
        user: user name at the broker, or None.
        password: password of that user, or None.
        password_file: file with the password instead. It is read at every connection. Trailing line ends are dropped.
        tls: whether the connection is encrypted and the broker's certificate and name are checked.
        ca_file: CA certificates (PEM) for the check of the broker's certificate, or None for those of the host.
        cert_file: this client's certificate (PEM), or None.
        key_file: its private key (PEM, not encrypted), or None if ``cert_file`` contains it.
        protocol: version of MQTT, "5" or "3.1.1".
        client_id: client identifier at the broker, or None to let `MqttConnection` choose it.

    Raises:
        ConfigError: a setting is wrong. It has a line for every problem, which begins with the setting's name.
    """

    host: str = "localhost"
    port: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    protocol: str = "5"
    client_id: str | None = None

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
        if self.password_file is None:
            return self.password
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
                if path is not None:
                    read_plain(name, path)
            except ConfigError as error:
                missing += error.problems
        if missing:
            raise ConfigError(missing)
        what, expected = f"ca_file {shown(self.ca_file)}", "certificates in PEM"
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                what = f"cert_file {shown(self.cert_file)}, key_file {shown(self.key_file)}"
                expected = "a certificate in PEM and the key that fits it, not encrypted"
                context.load_cert_chain(self.cert_file, self.key_file, password=_no_passphrase)
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
            if text is not None and not (text and text.isprintable() and len(text.encode()) <= _LONGEST_TEXT):
                given = name if name == "password" else f"{name} is {shown(text)}"
                yield f"{given}: expected a text without control characters"

    def _file_problems(self) -> Iterator[str]:
        if self.password is not None and self.password_file is not None:
            yield "password_file: expected password or password_file, not both"
        if self.user is None and {self.password, self.password_file} != {None}:
            yield "user: expected one where there is a password"
        for name in ("password_file", *_TLS_FILES):
            value = getattr(self, name)
            if value is not None and (not value or "\0" in value):
                yield f"{name} is {shown(value)}: expected the path of a file"
            if value is not None and name in _TLS_FILES and not self.tls:
                yield f"{name} is {shown(value)}: expected TLS to be on (mqtts:// in an address)"
        if self.key_file is not None and self.cert_file is None:
            yield f"key_file is {shown(self.key_file)}: expected a cert_file beside it"


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
