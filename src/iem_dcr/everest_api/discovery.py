"""Finds the power meter APIs that EVerest offers at a broker."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final, TypeGuard

from iem_dcr.errors import printable
from iem_dcr.everest_api.topics import QUERY_MODULES, is_module_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from iem_dcr.everest_api.bus import Bus

TYPE: Final = "powermeter"
WAIT_S: Final = 1.5
"""EVerest's modules answer within a second."""

MAX_APIS: Final = 1024
_MAX_BYTES: Final = 64 * 1024
_MAX_TIMES: Final = 16
_MAX_TEXT: Final = 60
_REPLY_TO: Final = f"everest_api/iem-dcr/{secrets.token_hex(8)}/apis"
"""One topic for all queries of a process, because a subscription lasts as long as the session."""


@dataclass(frozen=True, slots=True)
class FoundApi:
    """A power meter API that EVerest offers.

    Attributes:
        type: type of the API, always "powermeter".
        module_id: id of EVerest's API module.
        version: version of the API, or "" if the answer has none.
        communication_monitoring: the times that the answer gives, under EVerest's names: ``heartbeat_period_ms``,
            ``communication_check_period_s`` (cfg_communication_check_to_s in the module's configuration) and
            ``request_reply_timeout_s`` (cfg_request_reply_to_s).
    """

    type: str
    module_id: str
    version: str
    communication_monitoring: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return the API as JSON types, under EVerest's names."""
        return asdict(self)


async def discover(bus: Bus, *, wait_s: float = WAIT_S) -> tuple[FoundApi, ...]:
    """Ask EVerest which power meter APIs it offers.

    Args:
        bus: a connected bus.
        wait_s: how long answers are collected, seconds.

    Returns:
        The APIs that answered, sorted by module_id, at most 1,024.
    """
    found: dict[str, FoundApi] = {}

    def take(payload: bytes, _retained: bool) -> None:  # noqa: FBT001  as the bus calls it
        for api in read_answer(payload):
            if len(found) < MAX_APIS or api.module_id in found:
                found[api.module_id] = api

    bus.subscribe(_REPLY_TO, take)
    try:
        question = json.dumps({"headers": {"replyTo": _REPLY_TO}}).encode()
        bus.offer(QUERY_MODULES, question, good_for_s=wait_s)
        await asyncio.sleep(wait_s)
    finally:
        bus.unsubscribe(_REPLY_TO, take)
    return tuple(found[module_id] for module_id in sorted(found))


def read_answer(payload: bytes) -> Iterator[FoundApi]:
    """Yield the APIs that an answer names. An unreadable answer yields none."""
    try:
        answer = json.loads(payload.decode()) if len(payload) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        return
    apis = answer.get("apis") if isinstance(answer, dict) else None
    for api in apis if isinstance(apis, list) else ():
        module_id = api.get("module_id") if isinstance(api, dict) and api.get("type", TYPE) == TYPE else None
        if isinstance(module_id, str) and is_module_id(module_id):
            version, times = api.get("version"), api.get("communication_monitoring")
            shown = printable(version, limit=_MAX_TEXT) if isinstance(version, str) or _is_number(version) else ""
            yield FoundApi(TYPE, module_id, shown, _times(times) if isinstance(times, dict) else {})


def _times(times: dict[str, object]) -> dict[str, float]:
    first = list(times.items())[:_MAX_TIMES]
    return {printable(name, limit=_MAX_TEXT): time for name, time in first if _is_number(time)}


def _is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a usable number: not a boolean, not NaN, and less than 1e12 either way."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
