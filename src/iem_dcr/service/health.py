"""The health of the service, for ``/health/ready`` and the metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """The health of the service at one moment.

    Attributes:
        broker_connected: whether the broker is connected; None without a broker.
        is_ready: whether the service accepts requests for every meter from the broker. The state of the meters has no
            influence.
    """

    broker_connected: bool | None = None
    is_ready: bool = True
