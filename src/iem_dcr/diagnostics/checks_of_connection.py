"""The checks of the way to a meter: whether it is there, how fast it answers, what it does with connections."""

from __future__ import annotations

import errno
import socket
import statistics
from typing import TYPE_CHECKING, Final

from iem_dcr.diagnostics.report import Line, State
from iem_dcr.diagnostics.status import shown
from iem_dcr.errors import (
    AnswerLostError,
    MeterError,
    MeterTimeoutError,
    MeterUnreachableError,
    NotUnderstoodError,
    RefusedError,
    printable,
)

if TYPE_CHECKING:
    from iem_dcr.config import Settings
    from iem_dcr.device.transport import Answer
    from iem_dcr.diagnostics.evidence import Evidence

SLOW_S: Final = 1.0
"""A live value is due every second."""
TOO_SLOW_S: Final = 2.0
"""A driver waits no longer for a live value."""
_FACTORY_ADDRESS: Final = "192.168.60.12, port 80"


def no_meter(evidence: Evidence, proxies: tuple[str, ...]) -> Line:
    """Say why no IEM-DCR could be asked, and what to do."""
    error = evidence.lost[0]
    what, to_do = _unreachable(error) if isinstance(error, MeterUnreachableError) else _stranger(evidence, error)
    if proxies:
        to_do += (
            f" {' and '.join(proxies)} is set here: other programs, as curl, may go through that proxy and see "
            "something else; iem-dcr goes to the meter itself."
        )
    return Line("reachable", State.FAILED, what, to_do)


def _unreachable(error: MeterUnreachableError) -> tuple[str, str]:
    cause = error.__cause__
    number = getattr(cause, "errno", None)
    if number == errno.ECONNREFUSED:
        return (
            "the connection is refused: there is a device, but nothing listens at this port",
            (
                "Check address and port (an IEM-DCR's is 80). A meter that was just powered up needs some seconds "
                "before it answers: try again."
            ),
        )
    if number in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return (
            "there is no way to this address, or no device at it",
            (
                f"Check the address (from the factory {_FACTORY_ADDRESS}), power and cable, and that this host has an "
                "address in the meter's network (ip address)."
            ),
        )
    if isinstance(cause, TimeoutError):
        return (
            "nothing at this address answers, not even with a refusal",
            f"Check the address (from the factory {_FACTORY_ADDRESS}), power and cable, and any firewall in between.",
        )
    if isinstance(cause, socket.gaierror):
        return "this host does not know that name", f"Give the IP address (from the factory {_FACTORY_ADDRESS})."
    return printable(error.brief), f"Check the address (from the factory {_FACTORY_ADDRESS})."


def _stranger(evidence: Evidence, error: MeterError) -> tuple[str, str]:
    if isinstance(error, MeterTimeoutError):
        return (
            "something takes the connection and says nothing",
            (
                "A meter that is starting needs some seconds: try again. If the meter serves one connection at a time, "
                "it is in use: end what else asks it. Something that waits for TLS (https) also says nothing; an "
                "IEM-DCR speaks plain HTTP."
            ),
        )
    if isinstance(error, AnswerLostError):
        return (
            "something takes the connection and closes it without an answer",
            "A meter that is starting needs some seconds: try again. If it stays, something else is at this address.",
        )
    if isinstance(evidence.plain, MeterError):
        return (
            f"what answers does not speak HTTP: {printable(evidence.plain.brief)}",
            "Check address and port: an IEM-DCR speaks plain HTTP at port 80, no TLS (https).",
        )
    said = "" if evidence.plain is None else _described(evidence.plain)
    return (
        f"what answers is no IEM-DCR: {said}",
        (
            "Check the address: it may be the charger's controller, a router or another device. A meter that is "
            "starting may answer so too for some seconds."
        ),
    )


def _described(answer: Answer) -> str:
    kind = printable(answer.header("Content-Type").partition(";")[0], limit=60) or "no type"
    server = answer.header("Server")
    by = f", by {printable(server, limit=60)}" if server else ""
    to = f", a redirect to {printable(answer.header('Location'), limit=80)}" if 300 <= answer.status < 400 else ""
    return f"GET /metervalue has status {answer.status} and {kind}{to}{by}"


def reachable(evidence: Evidence, _: Settings | None) -> Line:
    """Judge whether it answers every question, and how fast."""
    took = [value.took_s for value in evidence.values]
    asked = len(took) + len(evidence.lost)
    values: dict[str, object] = {"asked": asked, "answered": len(took)}
    if not took:
        return Line("reachable", State.FAILED, no_values(evidence), _what_error_asks(evidence.lost[0]), values)
    median, worst = statistics.median(took), max(took)
    values |= {"median_s": round(median, 4), "worst_s": round(worst, 4)}
    text = f"answers in {_milliseconds(median)} (median of {len(took)}), {_milliseconds(worst)} at worst"
    if evidence.lost:
        text = (
            f"{len(evidence.lost)} of {asked} questions had no answer: {printable(evidence.lost[0].brief)}; else {text}"
        )
        return Line("reachable", State.FAILED, text, _what_error_asks(evidence.lost[0]), values)
    if worst < SLOW_S:
        return Line("reachable", State.OK, text, "", values)
    to_do = "A live value is due every second. Snapshot for what else asks this meter, and for a bad cable or switch."
    return Line("reachable", State.FAILED if median >= TOO_SLOW_S else State.WARNING, text, to_do, values)


def no_values(evidence: Evidence) -> str:
    """Say why there is no live value."""
    return f"no live value: {shown(evidence.lost[0].brief)}"


def _what_error_asks(error: MeterError) -> str:
    if isinstance(error, NotUnderstoodError):
        return "This firmware is not known. Please record it with iem-dcr record, and send it."
    if isinstance(error, RefusedError):
        return "A meter that is starting may refuse for some seconds: try again."
    return (
        "If the meter serves one connection at a time, it is in use: look for what else asks it. Else look for a bad "
        "cable or switch."
    )


def connections(evidence: Evidence, _: Settings | None) -> Line:
    """Tell what the meter says of its connection after an answer; each request makes a new one in any case."""
    plain = evidence.plain
    if plain is None or isinstance(plain, MeterError):
        return Line("connections", State.WARNING, "not seen, because GET /metervalue had no answer")
    said = plain.header("Connection").strip().lower()
    text = "closed after each answer" if said == "close" else "closed by this program after each answer"
    return Line("connections", State.OK, f"{text}; each request makes a new one", "", {"connection": said})


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
