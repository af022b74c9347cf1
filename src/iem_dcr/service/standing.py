"""How the service is, for whoever asks for its health."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """How the service is at a moment.

    Attributes:
        broker_connected: whether it is connected to the broker; None where there is none.
        is_ready: it can take requests for every meter. What a meter does or does not do has no part in it.
    """

    broker_connected: bool | None = None
    is_ready: bool = True
