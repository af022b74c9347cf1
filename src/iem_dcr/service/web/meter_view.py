"""What there is to show of one meter, and of all of them: pure, made of what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from iem_dcr.bringup.sight import OLD_AFTER_S, clock, duration, shown, troubles
from iem_dcr.errors import shortened
from iem_dcr.service.web import words
from iem_dcr.service.web.view import Cell, Row, View, text
from iem_dcr.service.web.words import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iem_dcr.bringup.sight import Sight, Trouble
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.service.observation import ObservedMeter, SeenError

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
_XS: Final = "the manufacturer's status word; its bits are not public"
_XC: Final = "the manufacturer's error words; their bits are not public"


def path_of(meter: ObservedMeter) -> str:
    """Return the path of a meter's page."""
    return f"/meters/{quote(meter.name, safe='')}"


def overview(rows: tuple[Row, ...], status: str) -> View:
    """Return what there is to show of all meters.

    Args:
        rows: each made by `row`.
        status: how the service is.
    """
    counts = {kind: sum(1 for row in rows if row.kind == kind) for kind in STATES}
    count = len(rows)
    parts = [f"{count} meter{'' if count == 1 else 's'}"]
    parts += [f"{counts[kind]} {word}" for kind, word in _COUNTED.items() if counts[kind]]
    return View({"summary": text(", ".join(parts)), "status": text(status)}, {"meters": rows})


def detail(meter: ObservedMeter, receipts: tuple[Row, ...], note: str = "") -> View:
    """Return what there is to show of one meter.

    Args:
        meter: the meter.
        receipts: rows of its latest receipts.
        note: what has to be said of those, or "".
    """
    sight = meter.sight()
    found = _troubles(meter, sight)
    kind = state_of(sight, found)
    fields = {
        "state": Cell(STATES[kind], kind),
        "name": text(shown(meter.name)),
        **_read(sight),
        **_values(sight.value),
        **_transaction(meter, sight),
        **_meter(meter, sight),
        "receipts-note": text(note),
    }
    tables = {
        "troubles": tuple(_trouble_rows(found)),
        "words": tuple(_word_rows(sight.value)),
        "errors": tuple(_error_rows(meter.errors)),
        "receipts": receipts,
    }
    return View(fields, tables)


def state_of(sight: Sight, found: Iterable[Trouble]) -> str:
    """Return the state of a meter, a key of `STATES`."""
    if sight.value is None:
        return "waiting" if sight.silent_since is None else "silent"
    if sight.silent_since is not None and sight.age_s is not None and sight.age_s > OLD_AFTER_S:
        return "silent"
    severities = {trouble.is_fault for trouble in found}
    if True in severities:
        return "fault"
    if sight.value.XT:
        return "busy"
    return "warning" if severities else "ready"


def _troubles(meter: ObservedMeter, sight: Sight) -> tuple[Trouble, ...]:
    return tuple(sorted((*troubles(sight), *meter.troubles()), key=lambda trouble: not trouble.is_fault))


def row(meter: ObservedMeter) -> Row:
    """Return the row of a meter among all."""
    sight = meter.sight()
    value = sight.value
    found = _troubles(meter, sight)
    kind = state_of(sight, found)
    charged = sight.transaction and f"{words.kwh(sight.transaction.charged_wh)} kWh"
    cells = (
        Cell(shown(meter.name), href=path_of(meter)),
        Cell(STATES[kind], kind),
        *(
            (text(f"{words.kw(value.P)} kW"), text(f"{words.tenths(value.U2)} V"), text(f"{words.tenths(value.I)} A"))
            if value is not None
            else (text(NOTHING),) * 3
        ),
        text(NOTHING if value is None else f"{words.kwh(value.import_wh)} kWh"),
        text(charged or NOTHING),
        _worst(found),
    )
    return Row(meter.name, cells, kind)


def _worst(found: tuple[Trouble, ...]) -> Cell:
    """Return the worst of what is wrong, and how much more there is."""
    if not found:
        return text("")
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Cell(f"{found[0].text}{more}", "fault" if found[0].is_fault else "")


def _read(sight: Sight) -> dict[str, Cell]:
    if sight.read_at is None:
        return {"read": text("No value yet"), "age": text("")}
    is_old = sight.age_s is not None and sight.age_s > OLD_AFTER_S
    return {
        "read": text(f"Last value {words.clock_time(sight.read_at)}"),
        "age": Cell(f", {words.ago(sight.age_s)}", "old" if is_old else ""),
    }


def _values(value: MeterValue | None) -> dict[str, Cell]:
    names = ("power", "voltage", "current", "import", "export")
    if value is None:
        return {name: text(NOTHING) for name in names}
    shown_values = (
        words.kw(value.P),
        words.tenths(value.U2),
        words.tenths(value.I),
        words.kwh(value.import_wh),
        words.kwh(value.export_wh),
    )
    return {name: text(shown_value) for name, shown_value in zip(names, shown_values, strict=True)}


def _transaction(meter: ObservedMeter, sight: Sight) -> dict[str, Cell]:
    request, seen = meter.request, sight.transaction
    if seen is not None:
        if seen.begin_seen:
            lasts_s = (meter.now() - seen.since).total_seconds()
            running = f"runs since {words.clock_time(seen.since)} ({duration(max(0.0, lasts_s))})"
        else:
            running = f"runs, since before {words.clock_time(seen.since)}"
    elif request is not None:
        running = "ended; its receipt is still to come"
    else:
        running = "none" if sight.value is not None else NOTHING
    fields = {
        "transaction": Cell(running, "busy" if seen is not None else ""),
        "charged": text(NOTHING if seen is None else f"{words.kwh(seen.charged_wh)} kWh"),
    }
    if request is None:
        nobody = "not begun by this service" if seen is not None else NOTHING
        return fields | {
            "transaction-id": text(nobody), "user": text(NOTHING), "tariff": text(NOTHING),
        }  # fmt: skip
    user = shortened(request.identification_data) if request.identification_data else NOTHING
    return fields | {
        "transaction-id": text(shown(request.transaction_id)),
        "user": text(f"{user} ({shown(request.identification_type)})"),
        "tariff": text(shown(request.tariff_text or "") or NOTHING),
    }


def _meter(meter: ObservedMeter, sight: Sight) -> dict[str, Cell]:
    value, gateway = sight.value, sight.gateway
    off = sight.clock_off
    fields = {
        "address": text(meter.address),
        "serial": text(NOTHING if value is None else shown(value.MS) or "none"),
        "clock": text(_clock(value)),
        "clock-off": text(NOTHING if off is None else clock(off)),
        "key": text(_key(meter.public_key)),
    }
    if gateway is None:
        return fields | {"CT": text(NOTHING), "CI": text(NOTHING)}
    for name in ("CT", "CI"):
        held, wanted = getattr(gateway, name), getattr(meter.settings, name)
        if not held:
            fields[name] = Cell("not set since the meter was powered up", "warning")
        elif held != wanted:
            fields[name] = Cell(f"{shown(held)} (configured is {shown(wanted)})", "warning")
        else:
            fields[name] = text(shown(held))
    return fields


def _clock(value: MeterValue | None) -> str:
    if value is None:
        return NOTHING
    return "not readable" if value.TM is None else f"{words.meter_time(value.TM)}, {words.sync(value.TM)}"


def _key(public_key: str) -> str:
    return f"{public_key[:8]} … {public_key[-16:]}" if public_key else "not known yet"


def _trouble_rows(found: Iterable[Trouble]) -> Iterator[Row]:
    for number, trouble in enumerate(found):
        kind = "fault" if trouble.is_fault else "warning"
        yield Row(str(number), (text(trouble.text),), kind)


def _word_rows(value: MeterValue | None) -> Iterator[Row]:
    if value is None:
        return
    health = {False: "no error", True: f"in error; {_XC}", None: "not readable"}[value.has_error]
    for name, content, meaning, kind in (
        ("XC", value.XC, health, {False: "", True: "fault", None: "warning"}[value.has_error]),
        ("XS", value.XS, _XS, ""),
        ("ST", value.ST, words.status(value.ST), "" if value.ST in ("G", "") else "warning"),
        ("EF", value.EF, words.flags(value.EF), "fault" if "E" in value.EF else "warning" if value.EF else ""),
    ):
        yield Row(name, (text(name), Cell(shown(content) or NOTHING, "code"), text(meaning)), kind)


def _error_rows(errors: Iterable[SeenError]) -> Iterator[Row]:
    for seen in reversed(tuple(errors)):
        if seen.cleared is None:
            over = Cell("stands", "fault")
        else:
            over = text(f"over after {duration((seen.cleared - seen.raised).total_seconds())}")
        cells = (
            text(words.day_and_time(seen.raised)),
            over,
            text(seen.error.sub_type),
            text(shown(seen.error.message)),
        )
        yield Row(str(seen.number), cells, "fault" if seen.cleared is None else "")
