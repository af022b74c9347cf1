"""Exports receipts: for the S.A.F.E. transparency software, as plain tuples, as CSV, and in OCPP's formats.

A tuple is exported byte for byte. On request a signature that the transparency software cannot read (raw r‖s) is
re-encoded as DER. This changes neither r and s nor the signed data.
"""

from __future__ import annotations

import base64
import csv
import enum
import io
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from iem_dcr.errors import ReceiptError, printable
from iem_dcr.meter_time import rfc3339
from iem_dcr.ocmf.import_formats import KEY, TUPLE
from iem_dcr.ocmf.keys import curve_of, public_key_der_hex
from iem_dcr.ocmf.receipt import parse
from iem_dcr.ocmf.sets import half_of, transactions_of
from iem_dcr.ocmf.signature import Form, Outcome, form_of, in_der, signature_numbers, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iem_dcr.ocmf.receipt import Reading, Receipt

LONGEST_OCPP_201 = 2500
"""Characters of signedMeterData in OCPP 2.0.1; 2.1 allows 32,768."""
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LONGEST_WORD = 1000
_COLUMNS = (
    "meter", "pagination", "transaction_id", "identification", "begin", "end", "begin_wh", "end_wh", "energy_wh",
    TUPLE, KEY,
)  # fmt: skip


class Format(enum.Enum):
    """An export format."""

    TRANSPARENCY = "transparency"
    PLAIN = "plain"
    CSV = "csv"
    OCPP16 = "ocpp16"
    OCPP201 = "ocpp201"


@dataclass(frozen=True, slots=True)
class Item:
    """A receipt to export.

    Attributes:
        receipt: the receipt as the meter signed it.
        public_key: the meter's key in a form that `public_key_der_hex` reads, or "" if unknown.
        transaction_id: the station's id, or "".
    """

    receipt: Receipt
    public_key: str = ""
    transaction_id: str = ""


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export.

    Attributes:
        text: the contents of the file.
        count: number of receipts in it.
        notes: sentences for the user about omitted and re-encoded receipts.
    """

    text: str
    count: int
    notes: tuple[str, ...]


def export(items: Sequence[Item], form: Format, *, reencode_signature: bool = False) -> Exported:
    """Export receipts.

    Args:
        items: the receipts in order. A repeated tuple is written again, except for the transparency software.
        form: the format.
        reencode_signature: re-encode signatures that the transparency software cannot read as DER.
    """
    notes: list[str] = []
    ready = [_with_signature(item, notes, reencode=reencode_signature) for item in items]
    text, count = _WRITERS[form](ready, notes)
    return Exported(text, count, tuple(dict.fromkeys(notes)))


def reencoded(receipt: Receipt, public_key: str = "") -> Receipt:
    """Return the receipt with its signature as DER in hex. The signed data does not change.

    Args:
        receipt: a receipt whose signature may be raw r‖s, or DER in a form that the transparency software cannot read.
        public_key: decides between two possible readings of the signature's bytes.

    Raises:
        ReceiptError: the algorithm is not one of OCMF's, or the signature is unreadable.
    """
    made = []
    for r, s in signature_numbers(receipt.signature, curve_of(receipt.algorithm)):
        section = {name: value for name, value in receipt.signature.items() if name not in ("SE", "SD")}
        section["SD"] = in_der(r, s).hex()
        head = receipt.text[: len("OCMF|") + len(receipt.signed.decode())]
        made.append(parse(f"{head}|{json.dumps(section, separators=(',', ':'), default=str)}"))
    return next((one for one in made if verify(one, public_key).outcome is Outcome.VALID), made[-1])


def signed_meter_value(item: Item) -> dict[str, str]:
    """Return OCPP's object for a receipt (OCA, Signed Meter Values in OCPP). Without a key ``publicKey`` is "".

    Raises:
        ReceiptError: the key is unreadable.
    """
    key = ""
    if item.public_key:
        key = _base64(f"oca:base16:asn1:{public_key_der_hex(item.public_key, item.receipt.algorithm)}")
    return {
        "signedMeterData": _base64(item.receipt.text),
        "signingMethod": "",
        "encodingMethod": "OCMF",
        "publicKey": key,
    }


def _with_signature(item: Item, notes: list[str], *, reencode: bool) -> Item:
    receipt = item.receipt
    if form_of(receipt.signature) not in (Form.NOT_DER, Form.ENCODING):
        return item
    if not reencode:
        notes.append(
            f"{_name(receipt)}: the transparency software cannot read its signature, which is not DER; "
            "--reencode-signature re-encodes it"
        )
        return item
    try:
        made = reencoded(receipt, item.public_key)
    except ReceiptError as error:
        notes.append(f"{_name(receipt)}: its signature cannot be re-encoded: {error}")
        return item
    notes.append(
        f"{_name(receipt)}: its signature was re-encoded as DER; the signed data is unchanged, but the tuple is no "
        "longer byte for byte the meter's"
    )
    return replace(item, receipt=made)


def _transparency(items: Sequence[Item], notes: list[str]) -> tuple[str, int]:
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<values>"]
    count = 0
    for number, group in enumerate(transactions_of([item.receipt for item in items]), 1):
        for index in group:
            count += 1
            lines += _value(items[index], number, notes)
    return "\n".join([*lines, "</values>", ""]), count


def _value(item: Item, number: int, notes: list[str]) -> list[str]:
    text, encoding = item.receipt.text, "plain"
    if _NOT_IN_XML.search(text):
        text, encoding = text.encode().hex(), "hex"
        notes.append(
            f"{_name(item.receipt)}: XML cannot contain its control characters; the transparency software cannot open "
            "the hex that is written instead"
        )
    lines = [
        f'  <value transactionId="{number}" context="{_context(item.receipt)}">',
        f'    <signedData format="OCMF" encoding="{encoding}">{_escaped(text)}</signedData>',
    ]
    key = _der_key(item, notes)
    if key:
        lines.append(f'    <publicKey encoding="plain">{key}</publicKey>')
    else:
        notes.append(f"{_name(item.receipt)}: written without a public key, which must be entered by hand")
    return [*lines, "  </value>"]


def _plain(items: Sequence[Item], notes: list[str]) -> tuple[str, int]:  # noqa: ARG001  all writers have the same signature
    return "".join(f"{item.receipt.text}\n" for item in items), len(items)


def _csv(items: Sequence[Item], notes: list[str]) -> tuple[str, int]:
    written = io.StringIO(newline="")
    table = csv.writer(written)
    table.writerow(_COLUMNS)
    for item in items:
        receipt = item.receipt
        begin, end = receipt.begin, receipt.end
        words = (receipt.meter_serial, receipt.pagination, item.transaction_id, receipt.identification)
        table.writerow(
            (
                *(_cell(word or "") for word in words),
                _time(begin),
                _time(end),
                *(
                    "" if wh is None else f"{wh:f}"
                    for wh in (begin and begin.energy_wh, end and end.energy_wh, receipt.energy_wh)
                ),
                receipt.text,
                _der_key(item, notes),
            )
        )
    return written.getvalue(), len(items)


def _ocpp16(items: Sequence[Item], notes: list[str]) -> tuple[str, int]:
    """Write MeterValue objects of OCPP 1.6 for meterValue or transactionData."""
    return _meter_values(
        items,
        notes,
        lambda item, _, value: {
            "value": json.dumps(value, separators=(",", ":")),
            "context": _context(item.receipt),
            "format": "SignedData",
            "measurand": "Energy.Active.Import.Register",
        },
    )


def _ocpp201(items: Sequence[Item], notes: list[str]) -> tuple[str, int]:
    """Write MeterValue objects of OCPP 2.0.1 for meterValue."""

    def sampled(item: Item, reading: Reading, value: dict[str, str]) -> dict[str, object] | None:
        energy_wh = reading.energy_wh
        if energy_wh is None:
            notes.append(f"{_name(item.receipt)}: omitted, because OCPP 2.0.1 requires an energy value and it has none")
            return None
        if len(value["signedMeterData"]) > LONGEST_OCPP_201:
            notes.append(
                f"{_name(item.receipt)}: its signedMeterData has {len(value['signedMeterData'])} characters; "
                f"OCPP 2.0.1 allows {LONGEST_OCPP_201}, 2.1 allows more"
            )
        return {
            "value": float(energy_wh),
            "context": _context(item.receipt),
            "measurand": "Energy.Active.Import.Register",
            "unitOfMeasure": {"unit": "Wh"},
            "signedMeterValue": value,
        }

    return _meter_values(items, notes, sampled)


def _meter_values(
    items: Sequence[Item],
    notes: list[str],
    sampled: Callable[[Item, Reading, dict[str, str]], dict[str, object] | None],
) -> tuple[str, int]:
    values: list[dict[str, object]] = []
    for item in items:
        reading = item.receipt.end or item.receipt.begin
        if reading is None or reading.TM is None:
            notes.append(f"{_name(item.receipt)}: omitted, because OCPP requires a time and it has none")
            continue
        key = _der_key(item, notes)
        value = sampled(item, reading, signed_meter_value(replace(item, public_key=key)))
        if value is not None:
            values.append({"timestamp": rfc3339(reading.TM.instant), "sampledValue": [value]})
    return json.dumps(values, indent=1) + "\n", len(values)


def _context(receipt: Receipt) -> str:
    """Return OCPP's context of a receipt. A tuple with begin and end is sent at the end."""
    return "Transaction.Begin" if half_of(receipt) == "begin" else "Transaction.End"


def _der_key(item: Item, notes: list[str]) -> str:
    if not item.public_key:
        return ""
    try:
        return public_key_der_hex(item.public_key, item.receipt.algorithm)
    except ReceiptError as error:
        notes.append(f"{_name(item.receipt)}: written without its key: {error}")
        return ""


def _name(receipt: Receipt) -> str:
    meter, pagination = receipt.meter, receipt.pagination
    return f"receipt {printable(pagination or 'without PG', limit=40)} of meter {printable(meter or '?', limit=40)}"


def _time(reading: Reading | None) -> str:
    return "" if reading is None or reading.TM is None else rfc3339(reading.TM.instant)


def _cell(text: str) -> str:
    """Return a text of a card or meter that no spreadsheet takes for a formula and that is safe on a terminal."""
    word = printable(text, limit=_LONGEST_WORD)
    return f"'{word}" if text.startswith(_FORMULA) or word.startswith(_FORMULA) else word


def _escaped(text: str) -> str:
    return escape(text, {"\r": "&#13;"})


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


_WRITERS: dict[Format, Callable[[Sequence[Item], list[str]], tuple[str, int]]] = {
    Format.TRANSPARENCY: _transparency,
    Format.PLAIN: _plain,
    Format.CSV: _csv,
    Format.OCPP16: _ocpp16,
    Format.OCPP201: _ocpp201,
}
