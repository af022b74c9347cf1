"""What there is to show of one meter at a moment: pure, made of what was seen. The templates say where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from markupsafe import Markup

from iem_dcr.diagnostics.status import OLD_AFTER_S, duration, shown, troubles
from iem_dcr.errors import shortened
from iem_dcr.web import formatting
from iem_dcr.web.formatting import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

    from iem_dcr.device.messages import MeterValue
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
"""What a meter's state is called."""
_COUNTED: Final = {
    "busy": "in a transaction",
    "silent": "without an answer",
    "fault": "with a fault",
    "warning": "with a warning",
    "waiting": "not asked yet",
}
"""How many meters are in a state is said in these words."""
_MEAN_AFTER_S: Final = 10.0
"""A session that is younger has no mean power worth showing."""


@dataclass(frozen=True)
class MeterView:
    """One meter.

    Attributes:
        meter: what was seen of it.
        status: the same at this moment.
        troubles: what is wrong, faults first.
        state: a key of `STATES`.
        title: what it is called: the charge point that it holds, or the configured one.
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
        """Return what there is to show now; to be called on the loop."""
        status = meter.status()
        found = tuple(sorted((*troubles(status), *meter.troubles()), key=lambda trouble: not trouble.is_fault))
        held = "" if status.gateway is None else status.gateway.CI
        title = shown(held) or shown(meter.settings.CI) or shown(meter.name)
        return cls(meter, status, found, _state_of(status, found), title, path_of(meter))

    @property
    def state_name(self) -> str:
        """What its state is called."""
        return STATES[self.state]

    @property
    def serial(self) -> str:
        """Its serial number, as far as it is known."""
        return NOTHING if self.status.value is None else shown(self.status.value.MS) or "none"

    @property
    def is_old(self) -> bool:
        """Whether its last value is no live one any more."""
        return self.status.age_s is not None and self.status.age_s > OLD_AFTER_S

    @property
    def energy_wh(self) -> Decimal | None:
        """Energy of the running transaction, Wh; None without one."""
        return None if self.status.transaction is None else self.status.transaction.charged_wh

    @cached_property
    def session_s(self) -> float | None:
        """How long the running transaction has been seen to run, seconds; None without one."""
        seen = self.status.transaction
        return None if seen is None else max(0.0, (self.meter.now() - seen.since).total_seconds())

    @property
    def session_time(self) -> str:
        """The same in words; of one whose begin was not seen it is the least that it can be."""
        if self.session_s is None or self.status.transaction is None:
            return NOTHING
        return f"{'' if self.status.transaction.begin_seen else 'over '}{duration(self.session_s)}"

    @property
    def mean_power_w(self) -> Decimal | None:
        """Mean power of the running transaction, W; None where its begin was not seen, or only just now."""
        seen = self.status.transaction
        if seen is None or not seen.begin_seen or self.session_s is None or self.session_s < _MEAN_AFTER_S:
            return None
        return seen.charged_wh * 3600 / round(self.session_s)

    @property
    def awaits_receipt(self) -> bool:
        """Whether the station began a transaction that is not seen running, and whose receipt is still to come."""
        return self.status.transaction is None and self.meter.request is not None

    def requested(self) -> Iterator[tuple[str, str]]:
        """Yield what the station said of the transaction: id, user, tariff."""
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
        """Yield CT and CI as the meter holds them, with the kind "warning" where that is not what is configured."""
        for key, head in (("CT", "Type (CT)"), ("CI", "Charge point (CI)")):
            held, wanted = getattr(self.status.gateway, key, None), getattr(self.meter.settings, key)
            if held is None:
                yield head, NOTHING, ""
            elif not held:
                yield head, "not set since the meter was powered up", "warning"
            elif held != wanted:
                yield head, f"{shown(held)} (configured is {shown(wanted)})", "warning"
            else:
                yield head, shown(held), ""

    @property
    def key(self) -> str:
        """The two ends of its public key."""
        key = self.meter.public_key
        return f"{key[:8]} … {key[-16:]}" if key else "not known yet"

    def words(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield name, content, meaning and kind of each status word."""
        if self.status.value is not None:
            yield from _words(self.status.value)


def path_of(meter: ObservedMeter) -> Markup:
    """Return the path of a meter's page."""
    return Markup("/meters/" + quote(meter.name, safe=""))  # noqa: S704  quote leaves nothing that could be markup


def summary(states: Sequence[str]) -> str:
    """Say how many meters there are in which state."""
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


def _words(value: MeterValue) -> Iterator[tuple[str, str, str, str]]:
    is_public = "bits are not public"
    health = {
        False: ("no error", ""),
        True: (f"in error; the manufacturer's error words, whose {is_public}", "fault"),
        None: ("not readable", "warning"),
    }
    yield "XC", shown(value.XC), *health[value.has_error]
    yield "XS", shown(value.XS), f"the manufacturer's status word, whose {is_public}", ""
    yield "ST", shown(value.ST), formatting.status(value.ST), "" if value.ST in ("G", "") else "warning"
    kind = "fault" if "E" in value.EF else "warning" if value.EF else ""
    yield "EF", shown(value.EF), formatting.flags(value.EF), kind
