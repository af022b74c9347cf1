"""EVerest's requests to one meter. Each is carried out once and answered once, even if the connection is lost.

* A request becomes a task, which passes it to the driver in the order of arrival. Its reply becomes another task, which
  waits for the broker. Nothing else waits.
* A request that comes again with the same ``replyTo`` gets the same reply again, and the meter gets no request. A
  different request with that ``replyTo`` is not carried out and never gets the first one's reply, because one
  transaction would then have the other's receipt.
* The driver is told about a start that is refused here, so that the stop for its id gets no other receipt.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from functools import partial
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import Deadline, now_s
from iem_dcr.errors import RequestError, printable
from iem_dcr.everest_api.envelope import Request, read_request, start_fields, stop_id
from iem_dcr.everest_api.replies import Replies, Reply
from iem_dcr.powermeter import TransactionReq, TransactionRequestStatus, TransactionStartResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from iem_dcr.driver import MeterDriver
    from iem_dcr.everest_api.bus import Bus
    from iem_dcr.powermeter import TransactionStopResponse

    Response = TransactionStartResponse | TransactionStopResponse

_log = logging.getLogger(__name__)

START: Final = "start_transaction"
STOP: Final = "stop_transaction"
MAX_AT_WORK: Final = 16
"""Requests that run or wait. Each counts until its reply is ready."""
MAX_REFUSALS: Final = 32
MAX_DELIVERIES: Final = 64
"""Replies that wait for the broker. Refusals and repeated replies take half of the places and displace no answer."""

_QUOTED: Final = re.compile(r"(?<!\w)(['\"])(.{2}).+(?:\1|…)")


class Requests:
    """Takes EVerest's requests to one meter from the bus, and has the driver carry them out."""

    def __init__(self, driver: MeterDriver, bus: Bus) -> None:
        self._driver = driver
        self._bus = bus
        self._replies = Replies(now_s)
        self._commands: set[asyncio.Task[Response]] = set()
        self._deliveries: dict[asyncio.Task[None], Reply] = {}
        self._failed_log = RateLimitedLog(_log, now_s)
        self._done_log = RateLimitedLog(_log, now_s)

    def take(self, command: str, message: bytes, retained: bool) -> None:  # noqa: FBT001  as the bus calls it
        """Accept a message on the topic of a command, `START` or `STOP`."""
        if retained:
            what = "a retained %s is ignored because it may be old: publish requests without retain"
            self._failed_log.warning(what, command)
            return
        request = read_request(message)
        reply = Reply(request.reply_to, request.digest(command), now_s())
        before = self._replies.find(reply)
        if before is not None:
            self._take_again(command, request, reply, before)
            return
        try:
            work = self._work(command, request)
        except RequestError as error:
            self._refuse(command, request, reply, str(error))
            return
        is_too_many = len(self._commands) >= MAX_AT_WORK
        if reply.reply_to is not None or (command == START and not is_too_many):
            self._replies.remember(reply)
        if is_too_many:
            self._refuse(command, request, reply, "too many requests at once")
            return
        if command == STOP and reply.reply_to is None:
            self._replies.forget_unanswered_starts()
        task = asyncio.create_task(work())
        self._commands.add(task)
        task.add_done_callback(lambda done: self._done(done, command, reply))

    async def finish(self, within_s: float) -> None:
        """Wait for the driver's last answers, and for all replies to be delivered, for this many seconds at most."""
        end = Deadline.after(within_s)
        while (left := {*self._commands, *self._deliveries}) and not end.passed:
            await asyncio.wait(left, timeout=end.left_s)

    async def close(self, *, gives_up: bool) -> None:
        """Cancel the commands. Replies that wait for the broker go on waiting, unless they are given up."""
        while left := {*self._commands, *(self._deliveries if gives_up else ())}:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _take_again(self, command: str, request: Request, reply: Reply, before: Reply) -> None:
        """Handle a request that has the ``replyTo`` of an earlier one, or is its repetition without ``replyTo``."""
        if reply.reply_to is None:
            self._failed_log.warning("the same %s without replyTo came again and is ignored", command)
        elif before.digest == reply.digest:
            if before.body is not None:
                self._deliver(before, is_refusal=True)
        elif before.body is not None:
            self._refuse(command, request, reply, "its replyTo is another request's: each request needs its own")
        else:  # the sender would take a refusal for the reply to the first request
            self._not_begun(command, request)
            what = "a %s with the replyTo of a running request is ignored: each request needs its own"
            self._failed_log.warning(what, command)

    def _work(self, command: str, request: Request) -> Callable[[], Coroutine[None, None, Response]]:
        if request.problem:
            raise RequestError(request.problem)
        if command == START:
            return partial(self._driver.start_transaction, TransactionReq.from_json(start_fields(request.payload)))
        return partial(self._driver.stop_transaction, stop_id(request.payload))

    def _refuse(self, command: str, request: Request, reply: Reply, reason: str) -> None:
        """Answer a request that is not carried out, or only log it if there is no topic for the reply."""
        self._not_begun(command, request)
        self._answered(command, reply, _failed(reason), is_refusal=True)

    def _not_begun(self, command: str, request: Request) -> None:
        payload = request.payload
        transaction_id = payload.get("transaction_id") if isinstance(payload, dict) else None
        if command == START and isinstance(transaction_id, str):
            self._driver.refuse_start(transaction_id)

    def _done(self, task: asyncio.Task[Response], command: str, reply: Reply) -> None:
        """Answer with the result of a command, or with an error if it failed."""
        self._commands.discard(task)
        if task.cancelled():
            answer = _failed("the driver is stopping")
        elif error := task.exception():
            _log.error("a command failed", exc_info=error)
            answer = _failed(f"internal error: {type(error).__name__}")
        else:
            answer = task.result().to_json()
        self._answered(command, reply, answer)

    def _answered(self, command: str, reply: Reply, answer: dict[str, object], *, is_refusal: bool = False) -> None:
        status, reason = answer["status"], answer.get("error")
        if reason:
            unheard = "" if reply.reply_to is not None else " (it has no usable replyTo)"
            self._failed_log.warning("%s: %s, %s%s", command, status, _masked(str(reason)), unheard)
        else:
            self._done_log.info("%s: %s", command, status)
        reply.body = json.dumps(answer, separators=(",", ":")).encode()
        self._deliver(reply, is_refusal=is_refusal)

    def _deliver(self, reply: Reply, *, is_refusal: bool = False) -> None:
        if reply.reply_to is None or reply in self._deliveries.values():
            return
        if len(self._deliveries) >= (MAX_REFUSALS if is_refusal else MAX_DELIVERIES):
            what = "%d replies already wait for the broker: another one is dropped"
            self._failed_log.warning(what, len(self._deliveries))
            return
        task = asyncio.create_task(self._delivery(reply, reply.reply_to))
        self._deliveries[task] = reply
        task.add_done_callback(self._deliveries.pop)

    async def _delivery(self, reply: Reply, reply_to: str) -> None:
        within_s = self._replies.waits_s(reply)
        if not await self._bus.deliver(reply_to, reply.body or b"", within_s=within_s):
            self._failed_log.warning("a reply could not be delivered within %.0f s and is given up", within_s)


def _failed(reason: str) -> dict[str, object]:
    """Return the answer to a request that was not carried out. It is the same for start and stop."""
    return TransactionStartResponse(TransactionRequestStatus.UNEXPECTED_ERROR, reason).to_json()


def _masked(reason: str) -> str:
    """Shorten quoted text in a reason for the log to two characters, because it may be a user's token."""
    return printable(_QUOTED.sub(r"\1\2…\1", reason), limit=200)
