"""Who may see the page: whoever gives the token, once in a form or with every request.

A browser that gave it gets a cookie that is good for twelve hours, also after a restart of the service: its end, signed
with the token. Wrong tokens are answered slowly and then not at all for a while, by address.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

SESSION_S: Final = 12 * 3600
FAILURES: Final = 5
"""So many wrong tokens from one address are answered; then one more every ten seconds."""
FORGIVEN_EVERY_S: Final = 10.0
ADDRESSES: Final = 256
"""Of so many addresses failures are remembered."""
_LONGEST: Final = 1024
_IPV6_PREFIX: Final = 64


class Access:
    """Checks tokens and cookies.

    Args:
        token: what has to be given, or None where everybody may see the page.
        now_s: a monotonic clock, seconds.
        wall_s: seconds since 1970, for the end of a cookie.
    """

    def __init__(self, token: str | None, now_s: Callable[[], float], wall_s: Callable[[], float] = time.time) -> None:
        self._token = token
        self._now_s = now_s
        self._wall_s = wall_s
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()
        key = (token or "").encode()
        self._key = hashlib.sha256(b"iem-dcr page, key of cookies\0" + key).digest()
        # Pages behind different ports of one host share their cookies, so each has a name of its own for it.
        self.cookie = "iem_dcr_" + hashlib.sha256(b"iem-dcr page, name of the cookie\0" + key).hexdigest()[:12]

    @property
    def is_open(self) -> bool:
        """Whether everybody may see the page."""
        return self._token is None

    def wait_s(self, address: str) -> float:
        """Return for how many seconds nothing more is taken from an address that gave wrong tokens."""
        left = self._left(address)
        return max(0.0, (left - FAILURES + 1) * FORGIVEN_EVERY_S) if left > FAILURES - 1 else 0.0

    def is_token(self, given: str, address: str) -> bool:
        """Check a token that came from an address; a wrong one is counted."""
        if self._token is None:
            return True
        digests = (hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (given[:_LONGEST], self._token))
        if hmac.compare_digest(*digests):
            return True
        key = _network(address)
        self._failures[key] = (self._left(address) + 1, self._now_s())
        self._failures.move_to_end(key)
        while len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)
        return False

    def session(self) -> str:
        """Return the value of a new cookie."""
        ends = str(int(self._wall_s()) + SESSION_S)
        return f"{ends}.{self._signed(ends)}"

    def is_session(self, value: str) -> bool:
        """Check the value of a cookie."""
        ends, _, signature = value[:_LONGEST].partition(".")
        if not (ends.isascii() and ends.isdigit()) or len(ends) > 12:
            return False
        is_signed = hmac.compare_digest(self._signed(ends).encode(), signature.encode("utf-8", "replace"))
        return is_signed and self._wall_s() < int(ends) <= self._wall_s() + 2 * SESSION_S

    def may_see(self, request: web.Request) -> bool:
        """Tell whether a request comes from somebody who may see the page: by its cookie or its Authorization."""
        if self._token is None or self.is_session(request.cookies.get(self.cookie, "")):
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        address = request.remote or ""
        if scheme.lower() != "bearer" or not given or self.wait_s(address) > 0:
            return False
        return self.is_token(given.strip(), address)

    def _signed(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _left(self, address: str) -> float:
        """Return how many failures of an address are not forgiven yet."""
        count, since_s = self._failures.get(_network(address), (0.0, 0.0))
        return max(0.0, count - (self._now_s() - since_s) / FORGIVEN_EVERY_S)


def _network(address: str) -> str:
    """Return whom an address stands for: itself, or with IPv6 the network that one host may have to itself."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((ip, _IPV6_PREFIX), strict=False))
    return str(ip)
