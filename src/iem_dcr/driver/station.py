"""The station and the observer as the driver calls them. Their exceptions are logged and not passed on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.device.messages import MeterValue
    from iem_dcr.driver.ports import Observer, Station
    from iem_dcr.driver.rate_limited_log import MeterLog
    from iem_dcr.powermeter import Powermeter, StationError


class GuardedStation:
    """A station whose exceptions are logged, at most five lines a minute, and not passed on.

    Attributes:
        observer: the observer, called in the same way, or None.
        active: the errors that are raised at the station, by sub_type.
    """

    def __init__(self, station: Station, observer: Observer | None, log: MeterLog) -> None:
        self.observer = observer
        self.active: dict[str, StationError] = {}
        self._station = station
        self._log = log

    def publish_powermeter(self, value: Powermeter) -> None:
        """Publish a live value."""
        self._call("the station failed to publish a live value", self._station.publish_powermeter, value)

    def publish_public_key(self, key: str) -> None:
        """Publish the meter's public key."""
        self._call("the station failed to publish the public key", self._station.publish_public_key, key)

    def raise_error(self, error: StationError) -> None:
        """Raise an error, unless one with its sub_type is active."""
        if error.sub_type not in self.active:
            self.active[error.sub_type] = error
            self._call("the station failed to raise an error", self._station.raise_error, error)
            self.observe("error_raised", error)

    def clear_error(self, sub_type: str) -> None:
        """Clear the active error with a sub_type, if there is one."""
        error = self.active.pop(sub_type, None)
        if error is not None:
            self._call("the station failed to clear an error", self._station.clear_error, error)
            self.observe("error_cleared", error)

    def value_read(self, value: MeterValue, read_at: Any) -> None:  # noqa: ANN401  a datetime
        """Notify the observer of a live value."""
        self.observe("value_read", value, read_at)

    def observe(self, name: str, *args: object) -> None:
        """Call a method of the observer by its name."""
        if self.observer is not None:
            self._call("the observer failed", getattr(self.observer, name), *args)

    def _call(self, what: str, call: Callable[..., None], *args: object) -> None:
        try:
            call(*args)
        except Exception:  # noqa: BLE001  no fault of a station may stop the driver
            self._log.limited(what).log(logging.ERROR, "%s", what, exc_info=True)
