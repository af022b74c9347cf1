"""EVerest as a station: live values, key and errors, as its framework takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iem_dcr.everest.framework import Framework
    from iem_dcr.powermeter import Powermeter, StationError


class EverestStation:
    """Publishes to EVerest. What the framework refuses raises, and is the driver's to log."""

    def __init__(self, framework: Framework) -> None:
        self._framework = framework

    def publish_powermeter(self, value: Powermeter) -> None:
        """Publish the variable `powermeter`."""
        self._framework.publish("powermeter", value.to_json())

    def publish_public_key(self, key: str) -> None:
        """Publish the variable `public_key_ocmf`; never empty: OCPP 1.6 would store that over the good one."""
        self._framework.publish("public_key_ocmf", key)

    def raise_error(self, error: StationError) -> None:
        """Raise an error."""
        self._framework.raise_error(error)

    def clear_error(self, error: StationError) -> None:
        """Clear an error."""
        self._framework.clear_error(error.type, error.sub_type)
