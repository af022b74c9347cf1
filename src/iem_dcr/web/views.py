"""The view of one meter at one moment: pure, derived from the observed values. The templates lay it out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from markupsafe import Markup

from iem_dcr.diagnostics.status import OLD_AFTER_S, duration, shown, troubles
from iem_dcr.errors import shortened
from iem_dcr.web import templates
from iem_dcr.web.templates import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

    from iem_dcr.diagnostics.status import Status, Trouble
    from iem_dcr.service.observation import ObservedMeter

STATES: Final = {
    "waiting": "Waiting",
    "silent": "No answer",
    "fault": "Fault",
    "busy": "Transaction",
    "warning": "Warning",
    "ready": "Ready",
}
"""The displayed name of each state."""
_COUNTED: Final = {
    "busy": "in a transaction",
    "silent": "not answering",
    "fault": "with a fault",
    "warning": "with a warning",
    "waiting": "not asked yet",
}
"""The words after the number of meters in a state."""
_MEAN_AFTER_S: Final = 10.0
"""A shorter session has no meaningful mean power."""


@dataclass(frozen=True)
class MeterView:
    """One meter.

    Attributes:
        meter: the observed meter.
        status: its current status.
        troubles: what is wrong, faults first.
        state: a key of `STATES`.
        title: its displayed name: the charge point that it holds, or the configured one.
        path: of its page.
    """

    meter: ObservedMeter
    status: Status
    troubles: tuple[Trouble, ...]
    state: str
    title: str
    path: Markup

    @classmethod
    def of(cls, meter: ObservedMeter) -> MeterView:
        """Return the current view. Must be called on the loop."""
        status = meter.status()
        found = tuple(sorted((*troubles(status), *meter.troubles()), key=lambda trouble: not trouble.is_fault))
        held = "" if status.gateway is None else status.gateway.CI
        title = shown(held) or shown(meter.settings.CI) or shown(meter.name)
        return cls(meter, status, found, _state_of(status, found), title, path_of(meter))

    @property
    def state_name(self) -> str:
        """The displayed name of its state."""
        return STATES[self.state]

    @property
    def serial(self) -> str:
        """Its serial number, or a dash if it is not known."""
        return NOTHING if self.status.value is None else shown(self.status.value.MS) or "none"

    @property
    def is_old(self) -> bool:
        """Whether its last value is too old to be live."""
        return self.status.age_s is not None and self.status.age_s > OLD_AFTER_S

    @property
    def energy_wh(self) -> Decimal | None:
        """Energy of the running transaction in Wh, or None."""
        return None if self.status.transaction is None else self.status.transaction.charged_wh

    @cached_property
    def session_s(self) -> float | None:
        """Seconds since the running transaction was first seen, or None."""
        seen = self.status.transaction
        return None if seen is None else max(0.0, (self.meter.now() - seen.since).total_seconds())

    @property
    def session_time(self) -> str:
        """The duration of the running transaction as text. If its begin was not seen, this is a lower bound."""
        if self.session_s is None or self.status.transaction is None:
            return NOTHING
        return f"{'' if self.status.transaction.begin_seen else 'over '}{duration(self.session_s)}"

    @property
    def mean_power_w(self) -> Decimal | None:
        """Mean power of the running transaction in W; None if its begin was not seen, or was just seen."""
        seen = self.status.transaction
        if seen is None or not seen.begin_seen or self.session_s is None or self.session_s < _MEAN_AFTER_S:
            return None
        return seen.charged_wh * 3600 / round(self.session_s)

    @property
    def awaits_receipt(self) -> bool:
        """Whether the station's transaction is not running according to the meter, but its receipt is still awaited."""
        return self.status.transaction is None and self.meter.request is not None

    def requested(self) -> Iterator[tuple[str, str]]:
        """Yield what the station requested for the transaction: id, user, tariff."""
        request = self.meter.request
        if request is None:
            is_foreign = self.status.transaction is not None
            yield "Id", "not begun by this service" if is_foreign else NOTHING
            return
        user = shortened(request.identification_data) if request.identification_data else NOTHING
        yield "Id", shown(request.transaction_id)
        yield "User", f"{user} ({shown(request.identification_type)})"
        yield "Tariff", shown(request.tariff_text or "") or NOTHING

    def charge_point(self) -> Iterator[tuple[str, str, str]]:
        """Yield the meter's CT and CI, with the kind "warning" if they differ from the configuration."""
        for key, head in (("CT", "Type (CT)"), ("CI", "Charge point (CI)")):
            held, wanted = getattr(self.status.gateway, key, None), getattr(self.meter.settings, key)
            if held is None:
                yield head, NOTHING, ""
            elif not held:
                yield head, "not set since the meter was powered up", "warning"
            elif held != wanted:
                yield head, f"{shown(held)} (configured: {shown(wanted)})", "warning"
            else:
                yield head, shown(held), ""

    @property
    def key(self) -> str:
        """The first and last digits of its public key."""
        key = self.meter.public_key
        return f"{key[:8]} … {key[-16:]}" if key else "not known yet"

    def words(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield name, content, meaning and kind of each status word."""
        value = self.status.value
        if value is None:
            return
        health = {
            False: ("no error", ""),
            True: ("in error; the manufacturer's error words, whose bits are not public", "fault"),
            None: ("not readable", "warning"),
        }
        yield "XC", shown(value.XC), *health[value.has_error]
        yield "XS", shown(value.XS), "the manufacturer's status word, whose bits are not public", ""
        yield "ST", shown(value.ST), templates.status(value.ST), "" if value.ST in ("G", "") else "warning"
        kind = "fault" if "E" in value.EF else "warning" if value.EF else ""
        yield "EF", shown(value.EF), templates.flags(value.EF), kind


def path_of(meter: ObservedMeter) -> Markup:
    """Return the path of a meter's page."""
    return Markup("/meters/" + quote(meter.name, safe=""))  # noqa: S704  quote leaves nothing that could be markup


def summary(states: Sequence[str]) -> str:
    """Return the number of meters by state, as text."""
    parts = [f"{len(states)} meter{'' if len(states) == 1 else 's'}"]
    parts += [f"{count} {word}" for state, word in _COUNTED.items() if (count := states.count(state))]
    return ", ".join(parts)


def _state_of(status: Status, found: tuple[Trouble, ...]) -> str:
    if status.value is None:
        return "waiting" if status.silent_since is None else "silent"
    if status.silent_since is not None and status.age_s is not None and status.age_s > OLD_AFTER_S:
        return "silent"
    if any(trouble.is_fault for trouble in found):
        return "fault"
    if status.value.XT:
        return "busy"
    return "warning" if found else "ready"
