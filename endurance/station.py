"""The station: it has transactions begun and ended, over either of its interfaces, and takes what it is answered."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from endurance.process import SERVICE, Process, payload_of_start
from endurance.stage import TOPICS, Call, Stage

if TYPE_CHECKING:
    from endurance.unit import Truth

NOTED_WITHIN_S: Final = 0.1


class Station(Stage):
    """The station's part of the world."""

    def ready(self, process: Process) -> None:
        """Take note that a process has subscribed, or is about to within this round."""
        asyncio.get_running_loop().call_soon(self._hand_over_queued, process)

    def heard(self, topic: str, payload: bytes) -> None:
        """Take what was published at the broker."""
        if topic == TOPICS.values:
            self.published(json.loads(payload))
        elif topic == TOPICS.check:
            self.checks.add(payload)
        elif topic in self._by_reply:
            self._answered(self._by_reply[topic], json.loads(payload))
        elif topic != TOPICS.key:
            self.dead_letters.append(topic)

    def start(self, request: dict[str, Any]) -> None:
        """Have a transaction begun."""
        call = Call("start", request["transaction_id"], len(self.calls), request)
        self.calls.append(call)
        self._send(call, request)

    def stop(self, transaction_id: str) -> None:
        """Have a transaction ended."""
        call = Call("stop", transaction_id, len(self.calls))
        self.calls.append(call)
        # Both forms that EVerest's API has are sent.
        plain = call.number % 2 == 0
        self._send(call, transaction_id if plain else {"transaction_id": transaction_id})

    def stop_again_if_failed(self, transaction_id: str) -> None:
        """Have a transaction ended that was not ended as yet."""
        stops = [call for call in self.calls if call.command == "stop" and call.transaction_id == transaction_id]
        if not any(call.ok for call in stops):
            self.stop(transaction_id)

    def stop_if_begun(self, transaction_id: str) -> None:
        """Have a transaction ended, as EVerest does: one whose start has not succeeded is not stopped."""
        starts = [call for call in self.calls if call.command == "start" and call.transaction_id == transaction_id]
        if any(call.ok for call in starts):
            self.stop(transaction_id)

    def _send(self, call: Call, payload: Any) -> None:
        self.counts[f"station: {call.command}"] += 1
        if self.plan.kind == SERVICE:
            reply_to = f"reply/{call.number}"
            self._by_reply[reply_to] = call
            topic = TOPICS.start if call.command == "start" else TOPICS.stop
            message = payload_of_start(payload, reply_to)
            if not self._send_to_process(topic, message):
                self._queued.append((topic, message, call))
            else:
                self._taken(call)
                if self._latency.random() < 0.1:
                    self._later(0.3, lambda: self._hand_over_again(call, topic, message))
            return
        process = self.process
        if process is None:
            call.excused = "no module was there"
            return
        self._taken(call)
        value = payload if call.command == "start" else call.transaction_id
        self._spawn(self._call_module(process, call, value))

    async def _call_module(self, process: Process, call: Call, value: object) -> None:
        answer = await process.call(call.command, value)
        if not process.killed:
            self._answered(call, answer)

    def _taken(self, call: Call) -> None:
        process = self.process
        assert process is not None  # noqa: S101  it has just taken it
        call.process, call.asked_s = process.number, self.now_s

    def _answered(self, call: Call, answer: dict[str, Any]) -> None:
        call.answers += 1
        if call.command == "start" and answer.get("status") == "OK":
            running = self.unit.running
            if running is not None:
                self._later(NOTED_WITHIN_S, lambda: self._noted(running))
        if call.answer is None:
            call.answer, call.answered_s = answer, self.now_s
            for begin_s, end_s in self.broker_troubled:
                call.broker_away_s += max(0.0, min(end_s, self.now_s) - max(begin_s, call.asked_s or 0.0))
            self.counts[f"{call.command}: {answer['status']}"] += 1
            why = answer.get("error", "")
            self.tell(f"call {call.number} {call.command} {call.transaction_id!r}: {answer['status']} {why}")
        elif call.answer != answer:
            self.dead_letters.append(f"another answer to {call.command} {call.transaction_id}")

    def _send_to_process(self, topic: str, message: bytes) -> bool:
        return self.process is not None and self.process.receive(topic, message)

    def _hand_over_again(self, call: Call, topic: str, message: bytes) -> None:
        """Have the broker hand over again what it got no acknowledgement for; who has answered has acknowledged it."""
        process = self.process
        if process is not None and (call.answer is None or process.number == call.process):
            process.receive(topic, message)

    def _hand_over_queued(self, process: Process) -> None:
        """Have the broker hand over what it held for a client that was away."""
        if process.killed:
            return
        queued, self._queued = self._queued, []
        for topic, message, call in queued:
            if process.receive(topic, message):
                self._taken(call)
            else:
                self._queued.append((topic, message, call))

    def _noted(self, truth: Truth) -> None:
        """Take note that a journal that is well has had the time to be told of a transaction."""
        if self.process is not None and truth.process_is(self.process.number) and self.disk.is_well:
            self.noted.add(truth)
