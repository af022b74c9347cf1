"""Errors of the broker connection, with messages that say what to do. It imports no MQTT library."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import IemDcrError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

TWICE_HINT: Final = "Is iem-dcr running twice with the same meters? Else give each its own client_id"

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
    149: ("it does not take messages of that size", False),
    142: (f"another client with the same client_id has taken the session over. {TWICE_HINT}", True),
}
"""Reason codes of CONNACK and DISCONNECT (MQTT 5, 3.2.2.2 and 3.14.2.1), and whether a setting has to be changed."""
_HOSTNAME_MISMATCH: Final = (62, 63, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH, _EMAIL_MISMATCH and _IP_ADDRESS_MISMATCH."""
_TLS_HINT: Final = "Is that port one for TLS, and is a client certificate (cert_file, key_file) wanted?"


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
