"""Gathers doctor's evidence from a meter, in a few seconds and with GET requests only. `checks` judges it.

The number of requests is bounded, and each has a time-out. So this ends within a minute whatever the meter does: there
are at most 12 requests of 4 s. They begin a second apart, so the clock and the registers are watched for some seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from iem_dcr.diagnostics import nodes
from iem_dcr.diagnostics.snapshot import read_gateway_and_key, read_value, utc_now
from iem_dcr.errors import MeterError, MeterUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from iem_dcr.config import Settings
    from iem_dcr.device.client import MeterClient
    from iem_dcr.device.messages import Gateway, MeterValue
    from iem_dcr.diagnostics.snapshot import Key, TimedValue

TIMEOUT_S: Final = 4.0
_VALUES: Final = 5
"""Number of live values that are read at first."""
_MAX_FAILURES: Final = 2
"""Number of failed requests for a live value after which no more are sent."""


@dataclass(slots=True)
class Evidence:
    """Everything that is known about the examined meter.

    Attributes:
        settings: its configuration, to compare with, or None.
        failures: of requests for a live value.
        problems: why there is no gateway (``gw``) or no key (``publickey``).
        transaction: what came of reading /transaction: the one with a receipt, else the last that was asked.
        has_signed_nothing: whether each path of /transaction says that there is no receipt.
        plain: what came of an unparsed GET /metervalue, where no IEM-DCR answers.
    """

    address: str
    settings: Settings | None = None
    values: list[TimedValue] = field(default_factory=list)
    failures: list[MeterError] = field(default_factory=list)
    gateway: Gateway | None = None
    key: Key | None = None
    problems: dict[str, str] = field(default_factory=dict)
    transaction: nodes.Recorded = field(default=nodes.Recorded(nodes.TRANSACTION_V1))
    has_signed_nothing: bool = False
    plain: nodes.Recorded = field(default=nodes.Recorded(nodes.METERVALUE))

    @property
    def is_meter(self) -> bool:
        """Whether any node answered as an IEM-DCR's does."""
        return bool(self.values) or self.gateway is not None or self.key is not None

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
    while len(evidence.values) + len(evidence.failures) < _VALUES and len(evidence.failures) < _MAX_FAILURES:
        await _read_value(evidence, client, wall)
    if not evidence.values and all(isinstance(error, MeterUnreachableError) for error in evidence.failures):
        return evidence
    evidence.gateway, evidence.key, evidence.problems = await read_gateway_and_key(client)
    if evidence.values:
        await _read_value(evidence, client, wall)
    if evidence.is_meter:
        await _read_transaction(evidence, client)
    else:
        evidence.plain = await nodes.NodeReader(client).read(nodes.METERVALUE)
    return evidence


async def _read_value(evidence: Evidence, client: MeterClient, wall: Callable[[], datetime]) -> None:
    await client.pause()
    try:
        evidence.values.append(await read_value(client, wall))
    except MeterError as error:
        evidence.failures.append(error)


async def _read_transaction(evidence: Evidence, client: MeterClient) -> None:
    """Read the last receipt below v1, or below v2 if it is not there."""
    if evidence.values and evidence.last.XT:
        evidence.transaction = nodes.Recorded(nodes.TRANSACTION_V1, not_asked=nodes.TRANSACTION_RUNS)
        return
    reader = nodes.NodeReader(client)
    asked = []
    for node in (nodes.TRANSACTION_V1, nodes.TRANSACTION_V2):
        evidence.transaction = await reader.read(node)
        if evidence.transaction.tuple_text is not None:
            return
        asked.append(evidence.transaction)
    evidence.has_signed_nothing = all(one.answer is not None and one.answer.status in (200, 404) for one in asked)
