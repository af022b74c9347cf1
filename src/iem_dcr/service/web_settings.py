"""The settings of the page: the keys of ``[web]`` and their checks."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iem_dcr.config import is_host, setting, settings_of, shown
from iem_dcr.errors import ConfigError
from iem_dcr.plain_file import read_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTEN: Final = "127.0.0.1:8080"
MIN_TOKEN: Final = 16
MAX_TOKEN: Final = 256

_TOKEN: Final = f"{MIN_TOKEN} to {MAX_TOKEN} ASCII letters, digits and signs without spaces (openssl rand -hex 16)"


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The address of the page, and who may see it. An empty text means not given.

    Raises:
        ConfigError: with a line for every mistake, ``key is value: expected what``.
    """

    listen: str = setting(
        LISTEN, "IP address and port of the bring-up page; an address other than loopback needs a token"
    )
    token: str = setting("", "Token that a browser must give; token_file is safer", is_secret=True)
    token_file: str = setting("", "File with the token, read when the service starts")
    names: str = setting("", "Host names of the page beside localhost and IP addresses, separated by commas")

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(problems)

    @property
    def host(self) -> str:
        """IP address of the page's server."""
        host = self.listen.rpartition(":")[0].strip("[]")
        return "127.0.0.1" if host == "localhost" else host

    @property
    def port(self) -> int:
        """TCP port of the page's server, or 0 for any free port."""
        return int(self.listen.rpartition(":")[2])

    @property
    def is_loopback(self) -> bool:
        """Whether only this computer can reach the page."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def needs_token(self) -> bool:
        """Whether a browser must give a token."""
        return bool(self.token or self.token_file)

    @property
    def host_names(self) -> frozenset[str]:
        """The host names, in lower case."""
        return frozenset(name.strip().rstrip(".").lower() for name in self.names.split(",") if name.strip())

    def read_token(self) -> str | None:
        """Return the token, reading ``token_file``; None if no token is needed.

        Raises:
            ConfigError: the file cannot be read, or contains no token.
        """
        if not self.token_file:
            return self.token or None
        text = read_secret("token_file", self.token_file).strip()
        if not _is_token(text):
            raise ConfigError([f"token_file {shown(self.token_file)} holds no token: expected {_TOKEN}"])
        return text

    def _problems(self) -> Iterator[str]:
        if not _is_address_with_port(self.listen):
            yield f"listen is {shown(self.listen)}: expected an IP address and a port, like {LISTEN} or [::1]:8080"
        elif not (self.is_loopback or self.needs_token):
            yield f"listen is {shown(self.listen)}: expected a loopback address, or a token or token_file"
        if self.token and self.token_file:
            yield "token_file: expected token or token_file, not both"
        if self.token and not _is_token(self.token):
            yield f"token: expected {_TOKEN}"
        if "\0" in self.token_file:
            yield f"token_file is {shown(self.token_file)}: expected the path of a file"
        if not all(is_host(name) and ":" not in name and name.isascii() for name in self.host_names):
            yield f"names is {shown(self.names)}: expected host names without ports, separated by commas"


WEB: Final = settings_of(WebSettings)
"""The keys of ``[web]``. Paths are relative to the configuration file's folder."""


def _is_token(text: str) -> bool:
    return MIN_TOKEN <= len(text) <= MAX_TOKEN and text.isascii() and text.isprintable() and " " not in text


def _is_address_with_port(text: str) -> bool:
    host, _, port = text.rpartition(":")
    try:
        if host.startswith("[") and host.endswith("]"):
            ipaddress.IPv6Address(host[1:-1])
        elif host != "localhost":
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return re.fullmatch("[0-9]{1,5}", port) is not None and int(port) <= 65535
