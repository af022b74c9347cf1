"""Finds out what is wrong with a meter: gathers the evidence, and judges it with `checks`."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from iem_dcr.device.client import MeterClient
from iem_dcr.diagnostics.checks import CHECKS, vendor_ci_problem
from iem_dcr.diagnostics.evidence import TIMEOUT_S, gather
from iem_dcr.diagnostics.nodes import PAUSE_S
from iem_dcr.diagnostics.report import FAILED, Report, Result
from iem_dcr.diagnostics.snapshot import utc_now
from iem_dcr.errors import AnswerLostError, MeterTimeoutError, MeterUnreachableError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from iem_dcr.config import Settings
    from iem_dcr.device.transport import Answer
    from iem_dcr.diagnostics.evidence import Evidence

_FROM_THE_FACTORY: Final = "(from the factory 192.168.60.12, port 80)"
_CHECK_ADDRESS: Final = f"Check the address {_FROM_THE_FACTORY}"
_IS_STARTING: Final = "A meter that was just powered up needs some seconds before it answers: try again."


async def examine(
    host: str,
    port: int,
    settings: Settings | None = None,
    *,
    proxies: Sequence[str] = (),
    wall: Callable[[], datetime] = utc_now,
) -> Report:
    """Examine a meter. An error of the meter becomes a part of the report and is not raised.

    Args:
        host: of the meter; IPv6 without brackets.
        port: TCP port.
        settings: its configuration, to compare with, or None.
        proxies: environment variables of this host that name a proxy.
        wall: the host's clock, aware.
    """
    async with MeterClient(host, port, timeout_s=TIMEOUT_S, pause_s=PAUSE_S) as client:
        return judge(await gather(client, settings, wall), proxies)


def judge(evidence: Evidence, proxies: Sequence[str] = ()) -> Report:
    """Judge what a meter answered. ``proxies`` as for `examine`."""
    error = vendor_ci_problem(evidence)
    if evidence.is_meter:
        results = {name: check.result(evidence) for name, check in CHECKS.items()}
        return Report(evidence.address, is_meter=True, results=results, error=error)
    text, to_do = _no_meter(evidence)
    if proxies:
        to_do += (
            f" {' and '.join(proxies)} is set here: other programs, such as curl, may go through that proxy and "
            "see something else; iem-dcr connects to the meter itself."
        )
    return Report(evidence.address, is_meter=False, results={"reachable": Result(FAILED, text, to_do)}, error=error)


def _no_meter(evidence: Evidence) -> tuple[str, str]:
    """Return why no IEM-DCR answered, and what to do."""
    match error := evidence.failures[0]:
        case MeterUnreachableError():
            return _unreachable(error)
        case MeterTimeoutError():
            return "something accepts the connection and sends nothing", (
                f"{_IS_STARTING} If the meter serves one connection at a time, another program is using it: stop that "
                "program. A server that waits for TLS (https) also sends nothing; an IEM-DCR speaks plain HTTP."
            )
        case AnswerLostError():
            text = "something accepts the connection and closes it without an answer"
            return text, f"{_IS_STARTING} If that does not help, another device has this address."
    answer = evidence.plain.answer
    if answer is None:
        text = f"the device that answers does not speak HTTP: {printable(error.brief)}"
        return text, "Check address and port: an IEM-DCR speaks plain HTTP at port 80, not TLS (https)."
    return f"the device that answers is not an IEM-DCR: {_description(answer)}", (
        "Check the address: it may be the charger's controller, a router or another device. A meter that is starting "
        "may also answer so for some seconds."
    )


def _unreachable(error: MeterUnreachableError) -> tuple[str, str]:
    cause = error.__cause__
    match getattr(cause, "errno", None):
        case errno.ECONNREFUSED:
            text = "the connection is refused: there is a device, but nothing listens at this port"
            return text, f"Check address and port (an IEM-DCR uses port 80). {_IS_STARTING}"
        case errno.EHOSTUNREACH | errno.ENETUNREACH:
            text = "there is no route to this address, or no device at it"
            to_do = "power and cable, and that this host has an address in the meter's network (ip address)."
            return text, f"{_CHECK_ADDRESS}, {to_do}"
    if isinstance(cause, TimeoutError):
        text = "nothing at this address answers, not even with a refusal"
        return text, f"{_CHECK_ADDRESS}, power and cable, and any firewall in between."
    if isinstance(cause, socket.gaierror):
        return "this host cannot resolve that name", f"Give the IP address {_FROM_THE_FACTORY}."
    return printable(error.brief), f"{_CHECK_ADDRESS}."


def _description(answer: Answer) -> str:
    kind = printable(answer.header("Content-Type").partition(";")[0], limit=60) or "no type"
    server = answer.header("Server")
    by = f", by {printable(server, limit=60)}" if server else ""
    to = f", a redirect to {printable(answer.header('Location'), limit=80)}" if 300 <= answer.status < 400 else ""
    return f"GET /metervalue has status {answer.status} and {kind}{to}{by}"
