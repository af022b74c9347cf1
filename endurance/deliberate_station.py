"""Faults put in on purpose into what is between the driver and its station: the service's API, the EVerest module."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from endurance.everest import StandInFramework
from endurance.replacing import instead
from iem_dcr.driver.commands import Command
from iem_dcr.everest.module import EverestModule
from iem_dcr.everest_api.requests import Requests
from iem_dcr.everest_api.status_publisher import StatusPublisher

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def check_is_false() -> AbstractContextManager[None]:
    """A meter that is away is told by word."""
    check = StatusPublisher._check

    def says_so(self: StatusPublisher) -> None:
        check(self)
        if not self.reachable:
            self._bus.offer(self._topics.check, b"false", good_for_s=2.0)

    return instead(StatusPublisher, _check=says_so)


def no_reply_on_failure() -> AbstractContextManager[None]:
    """Only what succeeded is answered."""
    answered = Requests._answered

    def only_good_news(self: Requests, command: str, reply: Any, answer: dict[str, object], **rest: Any) -> None:
        if answer["status"] == "OK":
            answered(self, command, reply, answer, **rest)

    return instead(Requests, _answered=only_good_news)


def left_waiting() -> AbstractContextManager[None]:
    """Commands that wait when the module is ended are answered neither by the driver nor by the module."""

    def nothing(*_: Any) -> None:
        return None

    stack = ExitStack()
    stack.enter_context(instead(Command, drop=nothing))
    stack.enter_context(instead(EverestModule, answer_what_waits=nothing))
    return stack  # type: ignore[return-value]  # it returns None


def handler_raises() -> AbstractContextManager[None]:
    """A handler lets an exception out, when the driver fails as well as when it says no."""
    start = EverestModule._start_transaction

    def strictly(self: EverestModule, arguments: dict[str, Any]) -> dict[str, object]:
        answer = start(self, arguments)
        if answer["status"] != "OK":
            raise ValueError(answer.get("error"))
        return answer

    return instead(EverestModule, _start_transaction=strictly)


def error_stays() -> AbstractContextManager[None]:
    """An error is never cleared."""

    def nothing(_self: StandInFramework, _error: Any) -> None:
        return None

    return instead(StandInFramework, clear_error=nothing)


def errors_of_before() -> AbstractContextManager[None]:
    """What EVerest holds for active from before a restart is raised once more."""

    def nothing(_self: EverestModule) -> None:
        return None

    return instead(EverestModule, _clear_errors_of_before=nothing)
