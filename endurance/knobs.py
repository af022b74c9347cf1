"""The meter of a run: random settings of the simulator's knobs.

``known`` varies what is known of the meter and some of its unknowns. ``all`` also varies every other unknown: wrong
live values, the effect of repeated requests, missing fields and other types. The name of one knob changes that one in
every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from iem_dcr.simulator import SimulatorOptions

if TYPE_CHECKING:
    import random

KNOWN: Final = "known"
ALL: Final = "all"
OPEN_AT_POWER_CUT: Final = ("closed", "closed-late", "running", "lost")
FIELDS: Final = ("TM", "EF", "ST", "XT", "U1", "U2", "I", "P", "XS", "XC")
"""Fields that /metervalue may omit: the driver needs only the import register and the serial number."""

_LAGS_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
_NO_RECEIPT: Final = ("refuse", "not-found", "nothing", "null", "empty")
UNKNOWN: Final[dict[str, tuple[Any, ...]]] = {
    "value_age_s": _LAGS_S,
    "begin_shows_after_s": _LAGS_S,
    "end_shows_after_s": _LAGS_S,
    "false_xt": ("single", "after-power-cut", "both"),
    "idle_end": ("accept",),
    "second_begin": ("ignore", "restart", "close-and-restart"),
    "user_while_running": ("refuse",),
    "begin_spoils_signature": (True,),
    "post_status": (201, 202, 204),
    "refusal_status": (400, 403, 409, 423),
    "missing": FIELDS,
    "null": FIELDS,
    "xt_type": ("number", "text"),
    "number_type": ("text",),
    "register_type": ("number",),
    "xc_blanks": (False,),
    "milliseconds": (False,),
    "sync_flag": (False,),
    "unset_time": ("1970", "zeros", "dashes", "empty", "missing"),
    "connections": ("one-waits", "one-refused"),
    "keep_alive": ("close", "drop-idle", "drop-reused"),
    "PG": ("missing", "restarts"),
    "receipt_while_signing": _NO_RECEIPT,
    "receipt_in_transaction": _NO_RECEIPT,
    "receipt_never_signed": _NO_RECEIPT,
    "transaction_lag_s": _LAGS_S,
}
"""Further settings of each unknown knob."""
CHANGED_SHARE: Final = 0.12
"""Share of the runs in which each knob is changed: about three knobs in a run, and each knob in many runs."""


def known_options(chance: random.Random, serial: str) -> SimulatorOptions:
    """Return the options of a meter for ``known``."""
    return SimulatorOptions(
        MS=serial,
        firmware=chance.choice(("v1", "v2")),
        bidirectional=chance.random() < 0.2,
        charge_s=chance.choice((1.0, 3.0, 8.0)),
        signing_delay_s=chance.choice((0.12, 0.12, 0.5, 2.0)),
        open_at_power_cut=chance.choice(OPEN_AT_POWER_CUT),
        power_failure_reading=chance.choice(("at-cut", "at-power-up")),
        late_close_s=chance.choice((1.0, 5.0)),
        idle_end=(repeated := chance.choice(("refuse", "refuse", "accept"))),
        second_begin="ignore" if repeated == "accept" else "refuse",
        receipt_while_signing=chance.choice(("refuse", "empty", "previous")),
        receipt_in_transaction=chance.choice(("refuse", "empty", "previous")),
        receipt_after_power_up=chance.random() < 0.7,
        user_tariff_sticks=chance.random() < 0.7,
        receipt_wrapping=chance.choice(("raw", "quoted", "json-string", "object")),
    )


def with_unknown(chance: random.Random, known: SimulatorOptions, knobs: str) -> SimulatorOptions:
    """Return the options with unknown knobs changed as well: random ones, or the one that ``knobs`` names."""
    changes: dict[str, Any] = {}
    for name, settings in UNKNOWN.items():
        share = 1.0 if knobs == name else CHANGED_SHARE if knobs == ALL else 0.0
        if chance.random() < share:
            several = settings is FIELDS
            changes[name] = chance.sample(FIELDS, chance.choice((1, 1, 3))) if several else chance.choice(settings)
    return known.changed(changes)


def differences(options: SimulatorOptions) -> list[tuple[str, Any]]:
    """Return name and value of every knob that differs from its default."""
    plain = SimulatorOptions(MS=options.MS).as_json()
    return [(name, value) for name, value in options.as_json().items() if value != plain[name]]
