"""The station and the observer as the driver calls them: whatever they raise goes no further."""

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
    """A station whose failures are logged, a handful of lines a minute, and go no further.

    Attributes:
        observer: looks on, with the same guard; None where none does.
        active: the errors that are raised.
    """

    def __init__(self, station: Station, observer: Observer | None, log: MeterLog) -> None:
        self.observer = observer
        self.active: dict[str, StationError] = {}
        self._station = station
        self._log = log

    def publish_powermeter(self, value: Powermeter) -> None:
        """Pass on a live value."""
        self._call("the station does not take live values", self._station.publish_powermeter, value)

    def publish_public_key(self, key: str) -> None:
        """Pass on the key."""
        self._call("the station does not take the key", self._station.publish_public_key, key)

    def raise_error(self, error: StationError) -> None:
        """Raise an error, unless one of its sub_type is active."""
        if error.sub_type not in self.active:
            self.active[error.sub_type] = error
            self._call("the station does not take errors", self._station.raise_error, error)
            self.observe("error_raised", error)

    def clear_error(self, sub_type: str) -> None:
        """Clear the error of a sub_type, if one is active."""
        error = self.active.pop(sub_type, None)
        if error is not None:
            self._call("the station does not take errors", self._station.clear_error, error)
            self.observe("error_cleared", error)

    def value_read(self, value: MeterValue, read_at: Any) -> None:  # noqa: ANN401  a datetime
        """Show the observer a live value."""
        self.observe("value_read", value, read_at)

    def observe(self, name: str, *args: object) -> None:
        """Tell the observer of something, by the name of its method."""
        if self.observer is not None:
            self._call("the observer failed", getattr(self.observer, name), *args)

    def _call(self, what: str, call: Callable[..., None], *args: object) -> None:
        try:
            call(*args)
        except Exception:  # noqa: BLE001  whatever a station does wrong must not stop the meter from being driven
            self._log.limited(what).log(logging.ERROR, "%s", what, exc_info=True)
