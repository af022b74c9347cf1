"""The nodes of a meter that can be asked with GET, and which of them may be asked when.

While a transaction runs only /metervalue, /gw and /publickey are asked: nothing is known of what the others do to it.
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
        base: path that it is below.
        always: it may be asked while a transaction runs.
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
WHILE_RUNNING: Final = "not asked while a transaction runs"
NOT_KNOWN: Final = "not asked: it is not known whether a transaction runs"
ALL: Final = (METERVALUE, GW, PUBLICKEY, DATETIME, RECEIPT, TRANSACTION_V1, TRANSACTION_V2)


class Questioner:
    """Asks a meter's nodes, and from the first sight of a transaction on none that must not be asked then.

    Attributes:
        why_not: why the nodes that may not always be asked are not, or "" while they are.
    """

    def __init__(self, client: MeterClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self.why_not = ""

    async def may_ask(self, node: Node) -> bool:
        """Tell whether a node may be asked now; of one that may not always be, the meter is asked first."""
        if node.always or self.why_not:
            return node.always
        try:
            self.take_note(await self.answer(METERVALUE))
        except MeterError:
            self.why_not = NOT_KNOWN
        return not self.why_not

    async def answer(self, node: Node) -> Answer:
        """Ask a node.

        Raises:
            MeterError: as `iem_dcr.device.client.MeterClient.answer`.
        """
        return await self._client.answer(node.name, base=node.base, timeout_s=self._timeout_s)

    def take_note(self, answer: Answer) -> None:
        """Take up from an answer of /metervalue whether a transaction runs; one that does not say is taken for yes."""
        runs = _running(answer)
        if runs is None:
            self.why_not = NOT_KNOWN
        elif runs:
            self.why_not = WHILE_RUNNING


def _running(answer: Answer) -> bool | None:
    try:
        fields = messages.decode(answer.body)
    except messages.ShapeError:
        return None
    value = fields.get("XT") if answer.status == 200 and isinstance(fields, dict) else None
    return messages.flag(value)
