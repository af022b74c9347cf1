"""The health of the service, for ``/health/ready`` and the metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """The health of the service at one moment.

    Attributes:
        broker_connected: whether the broker is connected; None where there is no broker.
        is_ready: requests for every meter are taken from the broker. The state of the meters has no influence.
    """

    broker_connected: bool | None = None
    is_ready: bool = True
