"""Gathers doctor's evidence from a meter, in a few seconds and with GET requests only. `checks` judges it.

The number of requests is bounded, and each has a time-out. So this ends within a minute whatever the meter does: there
are at most 13 requests of 4 s, and the registers are watched for 3 s.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from iem_dcr.diagnostics import nodes
from iem_dcr.diagnostics.snapshot import read_gateway_and_key, read_value, utc_now
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import MeterError, MeterUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from iem_dcr.config import Settings
    from iem_dcr.device.client import MeterClient
    from iem_dcr.device.messages import Gateway, MeterValue, PublicKey
    from iem_dcr.diagnostics.nodes import Recorded
    from iem_dcr.diagnostics.snapshot import Key, TimedValue

TIMEOUT_S: Final = 4.0
VALUES: Final = 5
"""Number of live values that are read at first."""
MAX_FAILURES: Final = 2
"""Number of failed requests for a live value after which no more are sent."""
REGISTERS_WATCHED_S: Final = 3.0


@dataclass(slots=True)
class Evidence:
    """Everything that is known about the examined meter.

    Attributes:
        address: of the meter.
        settings: its configuration, to compare with, or None.
        values: live values, in their order.
        failures: of requests for a live value.
        plain: what came of an unparsed GET /metervalue.
        gateway: the answer of /gw, or None.
        public_key: the answer of /publickey, or None.
        key: the key in that answer, or None if it cannot be read.
        problems: why there is no gateway (``gw``) or no key (``publickey``).
        transactions: what came of reading /transaction, below v1 and then below v2.
    """

    address: str
    settings: Settings | None = None
    values: list[TimedValue] = field(default_factory=list)
    failures: list[MeterError] = field(default_factory=list)
    plain: Recorded = field(default=nodes.Recorded(nodes.METERVALUE))
    gateway: Gateway | None = None
    public_key: PublicKey | None = None
    key: Key | None = None
    problems: dict[str, str] = field(default_factory=dict)
    transactions: list[Recorded] = field(default_factory=list)

    @property
    def is_meter(self) -> bool:
        """Whether any node answered as an IEM-DCR's does."""
        return bool(self.values) or self.gateway is not None or self.public_key is not None

    @property
    def last(self) -> MeterValue:
        """The last live value.

        Raises:
            IndexError: there is none.
        """
        return self.values[-1].value


async def gather(
    client: MeterClient, settings: Settings | None = None, wall: Callable[[], datetime] = utc_now
) -> Evidence:
    """Read everything that the checks need. An error of the meter goes into the evidence and is not raised.

    Args:
        client: of the meter, with `TIMEOUT_S` and a pause between requests.
        settings: the meter's configuration, to compare with, or None.
        wall: the host's clock, aware.
    """
    evidence = Evidence(client.address, settings)
    for _ in range(VALUES):
        await _read_value(evidence, client, wall)
        if len(evidence.failures) >= MAX_FAILURES:
            break
    if not evidence.values and all(isinstance(error, MeterUnreachableError) for error in evidence.failures):
        return evidence
    reader = nodes.NodeReader(client)
    evidence.plain = await reader.read(nodes.METERVALUE)
    evidence.gateway, evidence.public_key, evidence.key = await read_gateway_and_key(client, evidence.problems)
    if evidence.values:
        due_s = evidence.values[0].asked_s + REGISTERS_WATCHED_S
        await asyncio.sleep(max(0.0, due_s - now_s()))
        await _read_value(evidence, client, wall)
    if evidence.is_meter:
        await _read_transactions(evidence, reader)
    return evidence


async def _read_value(evidence: Evidence, client: MeterClient, wall: Callable[[], datetime]) -> None:
    await client.pause()
    try:
        evidence.values.append(await read_value(client, wall))
    except MeterError as error:
        evidence.failures.append(error)


async def _read_transactions(evidence: Evidence, reader: nodes.NodeReader) -> None:
    """Read the last receipt below v1, or below v2 if it is not there."""
    if evidence.values and evidence.last.XT:
        evidence.transactions.append(nodes.Recorded(nodes.TRANSACTION_V1, not_asked=nodes.TRANSACTION_RUNS))
        return
    for node in (nodes.TRANSACTION_V1, nodes.TRANSACTION_V2):
        recorded = await reader.read(node)
        evidence.transactions.append(recorded)
        if recorded.tuple_text is not None:
            return
