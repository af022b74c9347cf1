"""What a meter's GET nodes answer, kept as it came: body, status and headers of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iem_dcr.bringup import nodes
from iem_dcr.device.client import MeterClient
from iem_dcr.errors import (
    AnswerLostError,
    MeterError,
    MeterTimeoutError,
    MeterUnreachableError,
    NotUnderstoodError,
)

if TYPE_CHECKING:
    from iem_dcr.bringup.nodes import Node
    from iem_dcr.device.transport import Answer

TIMEOUT_S: Final = 5.0
PAUSE_S: Final = 1.0
"""Requests are so far apart: a meter that serves one connection at a time has time for who drives it."""
_PROBLEMS: Final = {
    MeterUnreachableError: "no connection",
    MeterTimeoutError: "no answer in time",
    AnswerLostError: "the connection broke before the answer was whole",
    NotUnderstoodError: "not HTTP, or longer than 256 KiB",
}
"""What became of a question, without the address that the error's own words may hold."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One node.

    Attributes:
        answer: as it came, or None.
        problem: why there is none.
    """

    node: Node
    answer: Answer | None
    problem: str = ""


async def record(host: str, port: int) -> tuple[Recorded, ...]:
    """Ask every GET node of a meter once; those that are in nobody's way first.

    Raises:
        MeterError: the meter is not reachable.
    """
    async with MeterClient(host, port, timeout_s=TIMEOUT_S, pause_s=PAUSE_S) as client:
        questioner = nodes.Questioner(client, TIMEOUT_S)
        recorded = [await _first(questioner)]
        recorded += [await _one(node, questioner) for node in nodes.ALL[1:]]
        return tuple(recorded)


async def _first(questioner: nodes.Questioner) -> Recorded:
    """Ask /metervalue, which says whether a transaction runs."""
    try:
        answer = await questioner.answer(nodes.METERVALUE)
    except MeterUnreachableError:
        raise
    except MeterError as error:
        questioner.why_not = nodes.NOT_KNOWN
        return Recorded(nodes.METERVALUE, None, _problem(error))
    questioner.take_note(answer)
    return Recorded(nodes.METERVALUE, answer)


async def _one(node: Node, questioner: nodes.Questioner) -> Recorded:
    if not await questioner.may_ask(node):
        return Recorded(node, None, questioner.why_not)
    try:
        return Recorded(node, await questioner.answer(node))
    except MeterError as error:
        return Recorded(node, None, _problem(error))


def _problem(error: MeterError) -> str:
    return _PROBLEMS.get(type(error), "no answer")
