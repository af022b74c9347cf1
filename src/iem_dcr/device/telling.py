"""Telling whoever measures of each request to a meter; it costs next to nothing while nobody does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import MeterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    OnRequest: TypeAlias = Callable[[str, str, float, MeterError | None], None]
    """Told method, node, the seconds that it took, and what the request failed with or None."""


def told(on_request: OnRequest | None, method: str, node: str) -> AbstractContextManager[None]:
    """Tell of the request that is made within. One that was given up before its end is told to nobody."""
    return _NOBODY if on_request is None else _told(on_request, method, node)


_NOBODY: Final[AbstractContextManager[None]] = contextlib.nullcontext()


@contextlib.contextmanager
def _told(on_request: OnRequest, method: str, node: str) -> Iterator[None]:
    now_s = asyncio.get_running_loop().time
    began_s = now_s()
    try:
        yield
    except MeterError as error:
        on_request(method, node, now_s() - began_s, error)
        raise
    on_request(method, node, now_s() - began_s, None)
