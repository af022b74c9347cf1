"""EVerest's requests to one meter: carried out once each, and answered once each, whatever becomes of the connection.

Nothing here waits for anything: a request becomes a task, which hands it to the driver in the order in which it came,
and its answer becomes another, which waits for the broker.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import Deadline, now_s
from iem_dcr.errors import RequestError, printable
from iem_dcr.everest_api import envelope
from iem_dcr.everest_api.envelope import EnvelopeError
from iem_dcr.everest_api.replies import Replies, Reply, digest
from iem_dcr.powermeter import (
    TransactionReq,
    TransactionRequestStatus,
    TransactionStartResponse,
    TransactionStopResponse,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine

    from iem_dcr.driver import MeterDriver
    from iem_dcr.everest_api.bus import Bus

    Response = TransactionStartResponse | TransactionStopResponse
    Work = Callable[[], Coroutine[None, None, Response]]
    Prepare = Callable[[object], Work]

_log = logging.getLogger(__name__)

START: Final = "start_transaction"
STOP: Final = "stop_transaction"
MOST_AT_WORK: Final = 16
"""Requests at work or waiting; each holds a place until it has its answer."""
MOST_ANSWERS: Final = 32
MOST_REFUSALS: Final = 32
"""Deliveries that wait for the broker: refusals and repetitions, however many, take no place from an answer."""
ANSWERED_WITHIN_S: Final = 0.05
"""How long commands may take to pass on the answer of a driver that has ended."""

_QUOTED: Final = re.compile(r"(?<!\w)(['\"])(.{2}).+(?:\1|…)")


class Requests:
    """EVerest's requests to one meter.

    Args:
        driver: carries them out.
        bus: to EVerest.
    """

    def __init__(self, driver: MeterDriver, bus: Bus) -> None:
        self._driver = driver
        self._bus = bus
        self._replies = Replies(now_s)
        self._commands: set[asyncio.Task[Response]] = set()
        self._answers: set[asyncio.Task[None]] = set()
        self._refusals: set[asyncio.Task[None]] = set()
        self._seldom = RateLimitedLog(_log, now_s)
        self._unasked = RateLimitedLog(_log, now_s)
        self._done_well = RateLimitedLog(_log, now_s)

    def take_start(self, message: bytes, retained: bool) -> None:  # noqa: FBT001  the bus's way of calling
        """Take a request to begin a transaction."""
        self._take(START, message, self._start, retained=retained)

    def take_stop(self, message: bytes, retained: bool) -> None:  # noqa: FBT001  as above
        """Take a request to end a transaction."""
        self._take(STOP, message, self._stop, retained=retained)

    def resume(self) -> None:
        """Deliver what could not be delivered when this last ended."""
        for reply in self._replies.undelivered():
            self._deliver(reply, self._answers, MOST_ANSWERS)

    async def finish(self, within_s: float) -> None:
        """Have everything answered, and let the answers go out. To be called when the driver has ended.

        Args:
            within_s: how long the answers may take.
        """
        end = Deadline.after(within_s)
        if self._commands:
            await asyncio.wait(set(self._commands), timeout=ANSWERED_WITHIN_S)
        await _cancelled(self._commands)
        while (left := self._tasks()) and not end.passed:
            await asyncio.wait(left, timeout=end.left_s)

    async def close(self) -> None:
        """Leave no task behind. What did not go out is kept for `resume`."""
        while left := self._tasks():
            await _cancelled(left)

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return [*self._commands, *self._answers, *self._refusals]

    # --- from message to work ---

    def _take(self, command: str, message: bytes, prepare: Prepare, *, retained: bool) -> None:
        if retained:
            self._unasked.warning(
                "a retained %s is ignored: it is not of now. Publish requests without retain", command
            )
            return
        try:
            request = envelope.read_request(message)
        except EnvelopeError as error:
            self._refuse(command, str(error), error.reply_to, error.payload)
            return
        told = digest(command, json.dumps(request.payload, sort_keys=True).encode())
        if request.reply_to is not None and self._is_repeated(command, request.reply_to, told, request.payload):
            return
        try:
            work = prepare(request.payload)
        except RequestError as error:
            self._refuse(command, str(error), request.reply_to, request.payload)
            return
        if request.reply_to is None and not self._is_new(command, told):
            return
        reply = None if request.reply_to is None else self._replies.begin(request.reply_to, told)
        if len(self._commands) >= MOST_AT_WORK:
            if reply is None:
                self._replies.forget_start(told)
            self._not_begun(command, request.payload)
            self._answered(command, reply, _failed("too many requests at once"), self._refusals, MOST_REFUSALS)
            return
        task = asyncio.create_task(work())
        self._commands.add(task)
        task.add_done_callback(lambda done: self._done(done, command, reply))

    def _start(self, payload: object) -> Work:
        request = TransactionReq.from_json(envelope.start_fields(payload))
        return lambda: self._driver.start_transaction(request)

    def _stop(self, payload: object) -> Work:
        transaction_id = envelope.stop_id(payload)
        return lambda: self._driver.stop_transaction(transaction_id)

    def _is_repeated(self, command: str, reply_to: str, told: bytes | None, payload: object) -> bool:
        """Tell whether a request has come before; it is answered as before as soon as it is answered at all.

        Another request under the same ``replyTo`` is not carried out, and gets no other's answer: of two transactions
        one would have the other's receipt. While the first is at work it is not answered either, for its answer would
        be taken for the first one's.
        """
        reply = self._replies.find(reply_to)
        if reply is None:
            return False
        if reply.digest == told:
            if reply.body is not None:
                self._deliver(reply, self._refusals, MOST_REFUSALS)
            return True
        self._not_begun(command, payload)
        if reply.body is None:
            self._unasked.warning("a %s with the replyTo of a request at work is ignored: each needs its own", command)
            return True
        reason = "its replyTo is another request's: each request needs its own"
        self._answered(command, Reply(reply_to, b"", now_s()), _failed(reason), self._refusals, MOST_REFUSALS)
        return True

    def _is_new(self, command: str, told: bytes) -> bool:
        """Tell whether a request that wants no answer is to be carried out: a start that comes twice is once."""
        if command == STOP:
            self._replies.forget_starts()
            return True
        is_new = self._replies.is_new_start(told)
        if not is_new:
            self._unasked.warning("the same %s without replyTo came again and is ignored", command)
        return is_new

    # --- from work to answer ---

    def _refuse(self, command: str, reason: str, reply_to: str | None, payload: object) -> None:
        """Answer what is no request, or log it where nobody is to be told."""
        if reply_to is not None and self._is_repeated(command, reply_to, None, payload):
            return
        self._not_begun(command, payload)
        reply = None if reply_to is None else Reply(reply_to, b"", now_s())
        self._answered(command, reply, _failed(reason), self._refusals, MOST_REFUSALS)

    def _not_begun(self, command: str, payload: object) -> None:
        """Tell the driver of a start that will not come to it, so that its stop gets no other's receipt."""
        transaction_id = payload.get("transaction_id") if isinstance(payload, dict) else None
        if command == START and isinstance(transaction_id, str):
            self._driver.refuse_start(transaction_id)

    def _done(self, task: asyncio.Task[Response], command: str, reply: Reply | None) -> None:
        """Take the answer of a command, and have one where it could not be done."""
        self._commands.discard(task)
        if task.cancelled():
            answer = _failed("the driver is stopping")
        elif error := task.exception():
            _log.error("a command failed", exc_info=error)
            answer = _failed(f"internal error: {type(error).__name__}")
        else:
            answer = task.result().to_json()
        self._answered(command, reply, answer, self._answers, MOST_ANSWERS)

    def _answered(
        self,
        command: str,
        reply: Reply | None,
        answer: dict[str, object],
        deliveries: set[asyncio.Task[None]],
        most: int,
    ) -> None:
        status, reason = answer["status"], answer.get("error")
        if reason:
            unheard = "" if reply is not None else " (it has no replyTo that could be used)"
            self._seldom.warning("%s: %s, %s%s", command, status, _masked(str(reason)), unheard)
        else:
            self._done_well.info("%s: %s", command, status)
        if reply is not None:
            reply.body = json.dumps(answer, separators=(",", ":")).encode()
            self._deliver(reply, deliveries, most)

    def _deliver(self, reply: Reply, deliveries: set[asyncio.Task[None]], most: int) -> None:
        if reply.delivering:
            return
        if len(deliveries) >= most:
            self._seldom.warning("%d answers wait for the broker already: one more is dropped", len(deliveries))
            return
        reply.delivering = True
        task = asyncio.create_task(self._delivery(reply, reply.body or b""))
        deliveries.add(task)

        def done(_: object) -> None:
            reply.delivering = False
            deliveries.discard(task)

        task.add_done_callback(done)

    async def _delivery(self, reply: Reply, body: bytes) -> None:
        within_s = self._replies.waits_s(reply)
        try:
            if await self._bus.deliver(reply.reply_to, body, within_s=within_s):
                reply.delivered = True
            else:
                self._seldom.warning("an answer could not be delivered within %.0f s and is given up", within_s)
        except Exception:  # noqa: BLE001  a bus that fails must not lose the answer: it stays to be delivered
            _log.exception("an answer could not be delivered")


def _failed(reason: str) -> dict[str, object]:
    """Return the answer to a request that was not carried out: start and stop have it in common."""
    return TransactionStartResponse(TransactionRequestStatus.UNEXPECTED_ERROR, reason).to_json()


def _masked(reason: str) -> str:
    """Make a reason fit for a log: what it quotes may be a user's token, so no more than two characters of it."""
    return printable(_QUOTED.sub(r"\1\2…\1", reason), limit=200)


async def _cancelled(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tuple(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
