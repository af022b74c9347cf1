"""The nodes of a meter that answer GET, and a reader that does not disturb a running transaction.

During a transaction only /metervalue, /gw and /publickey are read, because the effect of reading the other nodes is not
known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iem_dcr.device import messages
from iem_dcr.device.client import BASE, BASE_V2
from iem_dcr.errors import MeterError

if TYPE_CHECKING:
    from iem_dcr.device.client import MeterClient
    from iem_dcr.device.transport import Answer


@dataclass(frozen=True, slots=True)
class Node:
    """A node that answers GET.

    Attributes:
        name: ``/gw``.
        base: path below which it is.
        always: whether it may be read during a transaction.
    """

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

TRANSACTION_RUNS: Final = "not asked while a transaction runs"
NOT_KNOWN: Final = "not asked: it is not known whether a transaction runs"


class NodeReader:
    """Reads a meter's nodes. After it has seen a transaction, it reads only nodes that may always be read.

    Attributes:
        why_not: why it does not read the other nodes, or "" while it does.
    """

    def __init__(self, client: MeterClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self.why_not = ""

    async def may_read(self, node: Node) -> bool:
        """Whether a node may be read now. If it may not always be read, /metervalue is read first."""
        if node.always or self.why_not:
            return node.always
        try:
            self.on_metervalue(await self.read(METERVALUE))
        except MeterError:
            self.why_not = NOT_KNOWN
        return not self.why_not

    async def read(self, node: Node) -> Answer:
        """Read a node.

        Raises:
            MeterError: as `iem_dcr.device.client.MeterClient.answer`.
        """
        return await self._client.answer(node.name, base=node.base, timeout_s=self._timeout_s)

    def on_metervalue(self, answer: Answer | None) -> None:
        """Process an answer of /metervalue, or None for no answer. Without a readable XT the state is unknown."""
        runs = None if answer is None else _transaction_runs(answer)
        if runs is None:
            self.why_not = NOT_KNOWN
        elif runs:
            self.why_not = TRANSACTION_RUNS


def _transaction_runs(answer: Answer) -> bool | None:
    try:
        fields = messages.decode(answer.body)
    except messages.ShapeError:
        return None
    return messages.flag(fields.get("XT")) if answer.status == 200 and isinstance(fields, dict) else None
