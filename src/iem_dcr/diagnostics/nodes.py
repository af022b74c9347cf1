"""The nodes of a meter that answer GET, and a reader that does not disturb a running transaction.

During a transaction only /metervalue, /gw and /publickey are read, because the effect of reading the other nodes is not
known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iem_dcr import ocmf
from iem_dcr.device import messages
from iem_dcr.device.client import BASE, BASE_V2
from iem_dcr.errors import (
    AnswerLostError,
    MeterError,
    MeterTimeoutError,
    MeterUnreachableError,
    NotUnderstoodError,
)

if TYPE_CHECKING:
    from iem_dcr.device.client import MeterClient
    from iem_dcr.device.transport import Answer


@dataclass(frozen=True, slots=True)
class Node:
    """A node that answers GET: ``/gw``, below which path, and whether it may be read during a transaction."""

    name: str
    base: str = BASE
    always: bool = False

    @property
    def path(self) -> str:
        """Path on the meter, ``/counter/v1/ocmf/gw``."""
        return self.base + self.name


METERVALUE: Final = Node("/metervalue", always=True)
GW: Final = Node("/gw", always=True)
PUBLICKEY: Final = Node("/publickey", always=True)
DATETIME: Final = Node("/datetime")
RECEIPT: Final = Node("/receipt")
TRANSACTION_V1: Final = Node("/transaction")
TRANSACTION_V2: Final = Node("/transaction", BASE_V2)
ALL: Final = (METERVALUE, GW, PUBLICKEY, DATETIME, RECEIPT, TRANSACTION_V1, TRANSACTION_V2)

PAUSE_S: Final = 1.0
"""Least time between two requests, so that a meter that serves one connection at a time can serve its driver."""
TRANSACTION_RUNS: Final = "not asked while a transaction runs"
NOT_KNOWN: Final = "not asked: it is not known whether a transaction runs"
_PROBLEMS: Final = {
    MeterUnreachableError: "no connection",
    MeterTimeoutError: "no answer in time",
    AnswerLostError: "the connection broke before the answer was complete",
    NotUnderstoodError: "not HTTP, or longer than 256 KiB",
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of reading a node: an unparsed answer, an error, or a reason why it was not asked."""

    node: Node
    answer: Answer | None = None
    error: MeterError | None = None
    not_asked: str = ""

    @property
    def problem(self) -> str:
        """Why there is no answer, or "". Unlike the text of the error it contains nothing from the meter."""
        return self.not_asked if self.error is None else _PROBLEMS.get(type(self.error), "no answer")

    @property
    def tuple_text(self) -> str | None:
        """The OCMF tuple of an answer with status 200, or None."""
        if self.answer is None or self.answer.status != 200:
            return None
        return ocmf.find_tuple(self.answer.body.decode(errors="surrogateescape"))


class NodeReader:
    """Reads a meter's nodes without parsing the answers.

    Before a node that may not always be read it reads /metervalue. After it has seen a transaction, or has had an
    answer without a readable XT, it asks no more such nodes.
    """

    def __init__(self, client: MeterClient) -> None:
        self._client = client
        self._not_asked = ""

    async def read(self, node: Node) -> Recorded:
        """Read a node. An error of the meter is returned and not raised."""
        if not node.always and not self._not_asked:
            await self.read(METERVALUE)
        if not node.always and self._not_asked:
            return Recorded(node, not_asked=self._not_asked)
        try:
            recorded = Recorded(node, await self._client.answer(node.name, base=node.base))
        except MeterError as error:
            recorded = Recorded(node, error=error)
        if node is METERVALUE and not self._not_asked:
            runs = None if recorded.answer is None else _transaction_runs(recorded.answer)
            self._not_asked = {True: TRANSACTION_RUNS, False: "", None: NOT_KNOWN}[runs]
        return recorded


def _transaction_runs(answer: Answer) -> bool | None:
    try:
        fields = messages.decode(answer.body)
    except messages.ShapeError:
        return None
    return messages.flag(fields.get("XT")) if answer.status == 200 and isinstance(fields, dict) else None
