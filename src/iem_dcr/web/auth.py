"""Access to the page: a client must give the token, once in a form or with every request.

A browser that gave the token gets a cookie. The cookie contains its expiry time, signed with the token. So it survives
a restart of the service, and becomes invalid when the token changes. Wrong tokens are counted by address. After a few
of them the address must wait.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

SESSION_S: Final = 12 * 3600
MAX_FAILURES: Final = 5
"""Number of wrong tokens that one address may give; then one more every `FORGIVEN_EVERY_S`."""
FORGIVEN_EVERY_S: Final = 10.0
MAX_ADDRESSES: Final = 256
"""Largest number of addresses whose failures are stored."""
_MAX_TEXT: Final = 1024


class Auth:
    """Checks tokens and cookies.

    Args:
        token: the token, or None if everyone may see the page.
        now_s: a monotonic clock, seconds.
        wall_s: seconds since 1970, for the expiry of a cookie.

    Attributes:
        cookie: name of the cookie. It depends on the token, because the ports of one host share their cookies.
    """

    def __init__(self, token: str | None, now_s: Callable[[], float], wall_s: Callable[[], float] = time.time) -> None:
        self._token = token
        self._now_s = now_s
        self._wall_s = wall_s
        self._forgiven_s: dict[str, float] = {}  # when all failures of a network are forgiven
        key = (token or "").encode()
        self._key = hashlib.sha256(b"iem-dcr page, key of cookies\0" + key).digest()
        self.cookie = "iem_dcr_" + hashlib.sha256(b"iem-dcr page, name of the cookie\0" + key).hexdigest()[:12]

    def may_see(self, request: web.Request) -> bool:
        """Return whether a request may see the page, by its cookie or its Authorization header."""
        if self._token is None or self.is_session(request.cookies.get(self.cookie, "")):
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        address = request.remote or ""
        if scheme.lower() != "bearer" or not given or self.wait_s(address) > 0:
            return False
        return self.is_token(given.strip(), address)

    def wait_s(self, address: str) -> float:
        """Return the number of seconds for which an address that gave wrong tokens must wait."""
        left_s = self._forgiven_s.get(_network(address), 0.0) - self._now_s()
        return max(0.0, left_s - (MAX_FAILURES - 1) * FORGIVEN_EVERY_S)

    def is_token(self, given: str, address: str) -> bool:
        """Check a token that came from an address, and count a wrong one."""
        if self._token is None:
            return True
        # Digests have one length, so the time of the comparison does not reveal the token's length.
        if hmac.compare_digest(_digest(given[:_MAX_TEXT]), _digest(self._token)):
            return True
        network, now_s = _network(address), self._now_s()
        self._forgiven_s[network] = max(now_s, self._forgiven_s.pop(network, 0.0)) + FORGIVEN_EVERY_S
        if len(self._forgiven_s) > MAX_ADDRESSES:
            del self._forgiven_s[next(iter(self._forgiven_s))]  # that of the oldest failure
        return False

    def session(self) -> str:
        """Return the value of a new cookie."""
        ends = str(int(self._wall_s()) + SESSION_S)
        return f"{ends}.{self._signed(ends)}"

    def is_session(self, value: str) -> bool:
        """Check the value of a cookie."""
        ends, _, signature = value[:_MAX_TEXT].partition(".")
        if not (ends.isascii() and ends.isdigit()) or len(ends) > 12:
            return False
        is_signed = hmac.compare_digest(self._signed(ends).encode(), signature.encode("utf-8", "replace"))
        # An expiry time too far in the future was written with a wrong clock.
        return is_signed and self._wall_s() < int(ends) <= self._wall_s() + 2 * SESSION_S

    def _signed(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _network(address: str) -> str:
    """Return the key by which failures are counted: the address, or for IPv6 the /64 that one host may have."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
