"""What a meter and its connection show in a few seconds, by GET requests alone; `checks` judges it."""

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

    from iem_dcr.device.client import MeterClient
    from iem_dcr.device.messages import Gateway, MeterValue, PublicKey
    from iem_dcr.device.transport import Answer
    from iem_dcr.diagnostics.nodes import Node
    from iem_dcr.diagnostics.snapshot import Key

TIMEOUT_S: Final = 4.0
"""Of each question. There are 13 at the most, so that it is over within a minute whatever the meter does."""
QUESTIONS: Final = 5
PAUSE_S: Final = 1.0
MOST_LOST: Final = 2
"""So many questions for a live value without an answer are enough."""
COUNTED_S: Final = 3.0
"""How long the registers are watched."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A live value.

    Attributes:
        read_s: when it was asked for, on the loop's clock.
        took_s: how long the answer took.
        clock_offset: how far the meter's clock was ahead of the host's.
        host: the host's time at which it was read.
    """

    value: MeterValue
    read_s: float
    took_s: float
    clock_offset: timedelta | None
    host: datetime


@dataclass(slots=True)
class Evidence:
    """Everything that was seen.

    Attributes:
        address: of the meter.
        values: live values, in their order.
        lost: what became of the questions for a live value that gave none.
        plain: an answer of /metervalue as it came, or why there is none.
        gateway: CT, CI and clock, or why not.
        public_key: the answer of /publickey, or None.
        key: that key read, or why not.
        why_not: why /transaction was not asked, or not to the end.
        transactions: answers of /transaction by its path, or why not.
    """

    address: str
    values: list[Timed] = field(default_factory=list)
    lost: list[MeterError] = field(default_factory=list)
    plain: Answer | MeterError | None = None
    gateway: Gateway | MeterError | None = None
    public_key: PublicKey | None = None
    key: Key | MeterError | ReceiptError | None = None
    why_not: str = ""
    transactions: dict[str, Answer | MeterError] = field(default_factory=dict)

    @property
    def is_meter(self) -> bool:
        """Whether any node answered as an IEM-DCR's does."""
        known = self.gateway is not None and not isinstance(self.gateway, MeterError)
        return bool(self.values) or known or self.public_key is not None

    @property
    def last(self) -> MeterValue | None:
        """The last live value."""
        return self.values[-1].value if self.values else None


async def gather(client: MeterClient, wall: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Evidence:
    """Ask a meter what there is to be asked, all GETs, within a minute. Never raises for the meter's sake."""
    evidence = Evidence(client.address)
    questioner = nodes.Questioner(client, TIMEOUT_S)
    await _ask_values(evidence, client, wall)
    if not evidence.values and all(isinstance(error, MeterUnreachableError) for error in evidence.lost):
        return evidence
    try:
        evidence.plain = await questioner.answer(nodes.METERVALUE)
    except MeterError as error:
        evidence.plain = error
    await _ask_gateway_and_key(evidence, client)
    if evidence.is_meter:
        await _ask_value_again(evidence, client, wall)
        await _ask_transactions(evidence, questioner)
    return evidence


async def _ask_values(evidence: Evidence, client: MeterClient, wall: Callable[[], datetime]) -> None:
    for _ in range(QUESTIONS):
        await _ask_value(evidence, client, wall)
        if len(evidence.lost) >= MOST_LOST:
            return


async def _ask_value(evidence: Evidence, client: MeterClient, wall: Callable[[], datetime]) -> None:
    await client.pause()
    now_s = asyncio.get_running_loop().time
    asked, asked_s = wall(), now_s()
    try:
        value = await client.metervalue(timeout_s=TIMEOUT_S)
    except MeterError as error:
        evidence.lost.append(error)
        return
    took_s = now_s() - asked_s
    host = asked + timedelta(seconds=took_s / 2)
    off = None if value.TM is None else value.TM.instant - host
    evidence.values.append(Timed(value, asked_s, took_s, off, host))


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


async def _ask_value_again(evidence: Evidence, client: MeterClient, wall: Callable[[], datetime]) -> None:
    """Ask for a live value when the first one is `COUNTED_S` old."""
    if not evidence.values:
        return
    due_s = evidence.values[0].read_s + COUNTED_S
    await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
    await _ask_value(evidence, client, wall)


async def _ask_transactions(evidence: Evidence, questioner: nodes.Questioner) -> None:
    if evidence.last is not None and evidence.last.XT:
        evidence.why_not = nodes.WHILE_RUNNING
        return
    for node in (nodes.TRANSACTION_V1, nodes.TRANSACTION_V2):
        if not await questioner.may_ask(node):
            evidence.why_not = questioner.why_not
            return
        if await _ask_transaction(evidence, node, questioner):
            return


async def _ask_transaction(evidence: Evidence, node: Node, questioner: nodes.Questioner) -> bool:
    """Ask for the last tuple at one of its places; tell whether it is there."""
    try:
        answer = await questioner.answer(node)
    except MeterError as error:
        evidence.transactions[node.path] = error
        return False
    evidence.transactions[node.path] = answer
    return tuple_in(answer) is not None


def tuple_in(answer: Answer | MeterError | None) -> str | None:
    """Return the OCMF tuple of an answer with status 200, or None."""
    if answer is None or isinstance(answer, MeterError) or answer.status != 200:
        return None
    return ocmf.find_tuple(answer.body.decode(errors="surrogateescape"))
