"""Why there is no connection to the broker, and when to try again. It imports no MQTT library.

Pauses double from 0.2 s to 15 s and are jittered, so that many clients do not reconnect at the same time. The first
failure of an outage is logged. A later failure is logged if its reason is new and only a change of settings helps. All
others are logged at debug.
"""

from __future__ import annotations

import logging
import random
import socket
import ssl
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import IemDcrError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.2
MAX_PAUSE_S: Final = 15.0
LASTING_PAUSE_S: Final = 5.0
"""Minimum pause if only a change of settings helps. Two clients with one client_id end each other's connections."""
STABLE_S: Final = 1.0
"""After a connection that lasted this long, pauses start at `FIRST_PAUSE_S` again."""
SHORT_S: Final = 20.0
MAX_SHORT: Final = 6
"""This many consecutive connections that the broker ended within `SHORT_S` mean that another client uses the same
client_id. MQTT 3.1.1 has no reason code for that, and mosquitto 2.0.11 sends none with MQTT 5 either."""

_TWICE_HINT: Final = "Is iem-dcr running twice with the same meters? Else give each its own client_id"
_TLS_HINT: Final = "Is that port one for TLS, and is a client certificate (cert_file, key_file) wanted?"
_REASONS: Final[Mapping[int, tuple[str, bool]]] = {
    128: ("the connection broke", False),
    132: ('it does not speak this version of MQTT: try the other one, protocol = "3.1.1" or "5"', True),
    133: ("it refuses the client_id", True),
    134: ("it refuses user and password", True),
    135: ("it does not let this user connect: see user and password, and its access rules", True),
    136: ("it is not available at the moment", False),
    137: ("it is busy", False),
    138: ("it has banned this client", True),
    139: ("it is shutting down", False),
    141: ("the keep-alive ended the connection: one side has heard nothing of the other for too long", False),
    142: (f"another client with the same client_id has taken the session over. {_TWICE_HINT}", True),
    149: ("it does not take messages of that size", False),
}
"""Reason codes of CONNACK and DISCONNECT (MQTT 5, 3.2.2.2 and 3.14.2.1), and whether a setting has to be changed."""
_HOSTNAME_MISMATCH: Final = (62, 63, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH, _EMAIL_MISMATCH and _IP_ADDRESS_MISMATCH."""


class BrokerError(IemDcrError):
    """There is no connection to the broker. The message is the reason, and is logged after the broker's address.

    Attributes:
        lasting: whether only a change of settings, here or at the broker, helps.
        lasted_s: how long the connection lasted, or None if none was made.
    """

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        self.lasted_s: float | None = None
        self.lasting = lasting
        super().__init__(reason)


def from_reason_code(code: int, otherwise: str) -> BrokerError:
    """Return the error for a reason code of the broker. ``otherwise`` is the reason if the code is unknown."""
    reason, lasting = _REASONS.get(code, (otherwise, False))
    return BrokerError(reason, lasting=lasting)


def from_os_error(error: OSError, *, is_tls: bool) -> BrokerError:
    """Return the error for an error of a socket, the resolver or TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _HOSTNAME_MISMATCH:
            expected = "use the name that the certificate is for as the host"
            return BrokerError(f"its TLS certificate is for another name: {expected}", lasting=True)
        why = printable(error.verify_message)
        return BrokerError(f"its TLS certificate is not trusted ({why}): see ca_file and the clock", lasting=True)
    if isinstance(error, ssl.SSLError):
        return BrokerError(f"TLS failed ({printable(error.reason or error)}). {_TLS_HINT}")
    if isinstance(error, socket.gaierror):
        return BrokerError(f"the host is not known ({printable(error.strerror or error)})")
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return BrokerError(f"it broke the connection off. {_TLS_HINT if is_tls else ''}".rstrip())
    is_refused = isinstance(error, ConnectionRefusedError)
    return BrokerError("nothing listens there" if is_refused else printable(error.strerror or error))


class Backoff:
    """The outages of one broker. ``name`` begins each log line."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reasons: set[str] = set()
        self._pause_s = FIRST_PAUSE_S
        self._short = 0

    def connected(self) -> bool:
        """End the outage, and return whether there was one."""
        was_out = bool(self._reasons)
        self._reasons.clear()
        return was_out

    def failed(self, error: BrokerError) -> float:
        """Log why there is no connection, or why connections keep ending. Return the pause before the next attempt."""
        lasted_s = error.lasted_s
        if lasted_s is not None and lasted_s >= STABLE_S:
            self._pause_s = FIRST_PAUSE_S
        is_short = lasted_s is not None and lasted_s < SHORT_S and not error.lasting
        self._short = self._short + 1 if is_short else 0
        if self._short >= MAX_SHORT:
            reason = f"it has ended {MAX_SHORT} connections soon after they were made. {_TWICE_HINT}"
            error = BrokerError(reason, lasting=True)
        reason = str(error)
        level = logging.DEBUG
        if not self._reasons or (error.lasting and reason not in self._reasons):
            level = logging.ERROR if error.lasting else logging.WARNING
        self._reasons.add(reason)
        _log.log(level, "%s: %s; trying again", self._name, reason)
        pause_s = max(self._pause_s, LASTING_PAUSE_S if error.lasting else 0.0)
        self._pause_s = min(pause_s * 2, MAX_PAUSE_S)
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311  it spreads clients and is no secret
