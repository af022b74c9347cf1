"""Gathers doctor's evidence from a meter, in a few seconds and with GET requests only. `checks` judges it.

The number of requests is bounded, and each has a time-out. So this ends within a minute whatever the meter does: there
are at most 13 requests of 4 s, and the registers are watched for 3 s.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from iem_dcr import ocmf
from iem_dcr.diagnostics import nodes
from iem_dcr.diagnostics.snapshot import key_of
from iem_dcr.errors import MeterError, MeterUnreachableError, ReceiptError

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.config import Settings
    from iem_dcr.device.client import MeterClient
    from iem_dcr.device.messages import Gateway, MeterValue, PublicKey
    from iem_dcr.device.transport import Answer
    from iem_dcr.diagnostics.nodes import Node
    from iem_dcr.diagnostics.snapshot import Key

TIMEOUT_S: Final = 4.0
PAUSE_S: Final = 1.0
"""Least time between two requests, so that a meter that serves one connection at a time can serve its driver."""
VALUES: Final = 5
"""Number of live values that are read at first."""
MAX_FAILURES: Final = 2
"""Number of failed requests for a live value after which no more are sent."""
REGISTERS_WATCHED_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class TimedValue:
    """A live value.

    Attributes:
        asked_s: the loop's time at which it was asked for.
        took_s: time until the answer.
        clock_offset: the meter's time minus the host's, or None if the value has no time.
        read_at: the host's time at which it was read.
    """

    value: MeterValue
    asked_s: float
    took_s: float
    clock_offset: timedelta | None
    read_at: datetime


@dataclass(slots=True)
class Evidence:
    """Everything that is known about the examined meter.

    Attributes:
        address: of the meter.
        settings: its configuration, to compare with, or None.
        values: live values, in their order.
        failures: of requests for a live value.
        plain: an unparsed answer of /metervalue, or its error.
        gateway: the answer of /gw, or its error.
        public_key: the answer of /publickey, or None.
        key: the key in that answer, or the error of reading it.
        why_not: why /transaction was not read, or not at both of its paths; "" if it was.
        transactions: the answers of /transaction by path, or their errors.
    """

    address: str
    settings: Settings | None = None
    values: list[TimedValue] = field(default_factory=list)
    failures: list[MeterError] = field(default_factory=list)
    plain: Answer | MeterError | None = None
    gateway: Gateway | MeterError | None = None
    public_key: PublicKey | None = None
    key: Key | MeterError | ReceiptError | None = None
    why_not: str = ""
    transactions: dict[str, Answer | MeterError] = field(default_factory=dict)

    @property
    def is_meter(self) -> bool:
        """Whether any node answered as an IEM-DCR's does."""
        has_gateway = self.gateway is not None and not isinstance(self.gateway, MeterError)
        return bool(self.values) or has_gateway or self.public_key is not None

    @property
    def last(self) -> MeterValue:
        """The last live value.

        Raises:
            IndexError: there is none.
        """
        return self.values[-1].value


async def gather(
    client: MeterClient,
    settings: Settings | None = None,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Evidence:
    """Read everything that the checks need. An error of the meter goes into the evidence and is not raised."""
    evidence = Evidence(client.address, settings)
    reader = nodes.NodeReader(client, TIMEOUT_S)
    for _ in range(VALUES):
        await _ask_value(evidence, client, wall)
        if len(evidence.failures) >= MAX_FAILURES:
            break
    if not evidence.values and all(isinstance(error, MeterUnreachableError) for error in evidence.failures):
        return evidence
    try:
        evidence.plain = await reader.read(nodes.METERVALUE)
    except MeterError as error:
        evidence.plain = error
    await _ask_gateway_and_key(evidence, client)
    if evidence.values:
        due_s = evidence.values[0].asked_s + REGISTERS_WATCHED_S
        await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
        await _ask_value(evidence, client, wall)
    if evidence.is_meter:
        await _ask_transactions(evidence, reader)
    return evidence


async def _ask_value(evidence: Evidence, client: MeterClient, wall: Callable[[], datetime]) -> None:
    await client.pause()
    now_s = asyncio.get_running_loop().time
    asked, asked_s = wall(), now_s()
    try:
        value = await client.metervalue(timeout_s=TIMEOUT_S)
    except MeterError as error:
        evidence.failures.append(error)
        return
    took_s = now_s() - asked_s
    read_at = asked + timedelta(seconds=took_s / 2)
    offset = None if value.TM is None else value.TM.instant - read_at
    evidence.values.append(TimedValue(value, asked_s, took_s, offset, read_at))


async def _ask_gateway_and_key(evidence: Evidence, client: MeterClient) -> None:
    try:
        evidence.gateway = await client.gw(timeout_s=TIMEOUT_S)
    except MeterError as error:
        evidence.gateway = error
    try:
        evidence.public_key = await client.publickey(timeout_s=TIMEOUT_S)
        evidence.key = key_of(evidence.public_key)
    except (MeterError, ReceiptError) as error:
        evidence.key = error


async def _ask_transactions(evidence: Evidence, reader: nodes.NodeReader) -> None:
    """Read the last receipt below v1, or below v2 if it is not there."""
    if evidence.values and evidence.last.XT:
        evidence.why_not = nodes.TRANSACTION_RUNS
        return
    for node in (nodes.TRANSACTION_V1, nodes.TRANSACTION_V2):
        if not await reader.may_read(node):
            evidence.why_not = reader.why_not
            return
        answer = evidence.transactions[node.path] = await _answer_or_error(node, reader)
        if tuple_in(answer) is not None:
            return


async def _answer_or_error(node: Node, reader: nodes.NodeReader) -> Answer | MeterError:
    try:
        return await reader.read(node)
    except MeterError as error:
        return error


def tuple_in(answer: Answer | MeterError | None) -> str | None:
    """Return the OCMF tuple of an answer with status 200, or None."""
    if answer is None or isinstance(answer, MeterError) or answer.status != 200:
        return None
    return ocmf.find_tuple(answer.body.decode(errors="surrogateescape"))
