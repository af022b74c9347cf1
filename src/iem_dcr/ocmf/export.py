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
    from collections.abc import Sequence

    from iem_dcr.ocmf.receipt import Receipt

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
    notes = _Notes()
    ready = [_ready(item, form, notes, reencode=reencode_signature) for item in items]
    match form:
        case Format.TRANSPARENCY:
            text, count = _transparency(ready, notes)
        case Format.PLAIN:
            text, count = "".join(f"{item.receipt.text}\n" for item in ready), len(ready)
        case Format.CSV:
            text, count = _csv(ready), len(ready)
        case Format.OCPP16 | Format.OCPP201:
            text, count = _ocpp(ready, notes, form)
    return Exported(text, count, tuple(dict.fromkeys(notes)))


class _Notes(list[str]):
    """Sentences for the user, each about a receipt."""

    def add(self, receipt: Receipt, text: str) -> None:
        pagination, meter = printable(receipt.pagination or "without PG", limit=40), printable(receipt.meter, limit=40)
        self.append(f"receipt {pagination} of meter {meter or '?'}: {text}")


def _ready(item: Item, form: Format, notes: _Notes, *, reencode: bool) -> Item:
    """Return the item with the signature to write, and with its key as DER in hex or ""."""
    receipt, key = item.receipt, ""
    if form_of(receipt.signature) in (Form.NOT_DER, Form.ENCODING):
        note = "the transparency software cannot read its signature: it is not DER; --reencode-signature re-encodes it"
        if reencode:
            try:
                receipt = _reencoded(receipt, item.public_key)
                note = "its signature was re-encoded as DER; the tuple is no longer byte for byte the meter's"
            except ReceiptError as error:
                note = f"its signature cannot be re-encoded: {error}"
        notes.add(receipt, note)
    if item.public_key and form is not Format.PLAIN:
        try:
            key = public_key_der_hex(item.public_key, receipt.algorithm)
        except ReceiptError as error:
            notes.add(receipt, f"written without its key: {error}")
    return replace(item, receipt=receipt, public_key=key)


def _reencoded(receipt: Receipt, public_key: str) -> Receipt:
    """Return the receipt with its signature as DER in hex. The key decides between two readings of its bytes."""
    made = []
    for r, s in signature_numbers(receipt.signature, curve_of(receipt.algorithm)):
        section = {name: value for name, value in receipt.signature.items() if name not in ("SE", "SD")}
        section["SD"] = in_der(r, s).hex()
        head = receipt.text[: len("OCMF|") + len(receipt.signed.decode())]
        made.append(parse(f"{head}|{json.dumps(section, separators=(',', ':'), default=str)}"))
    return next((one for one in made if verify(one, public_key).outcome is Outcome.VALID), made[-1])


def _transparency(items: Sequence[Item], notes: _Notes) -> tuple[str, int]:
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<values>"]
    groups = transactions_of([item.receipt for item in items])
    for number, group in enumerate(groups, 1):
        for index in group:
            lines += _value(items[index], number, notes)
    return "\n".join([*lines, "</values>", ""]), sum(map(len, groups))


def _value(item: Item, number: int, notes: _Notes) -> list[str]:
    text, encoding = item.receipt.text, "plain"
    if _NOT_IN_XML.search(text):
        text, encoding = text.encode().hex(), "hex"
        notes.add(
            item.receipt,
            "XML cannot contain its control characters; the transparency software cannot open the hex that is written "
            "instead",
        )
    written = escape(text, {"\r": "&#13;"})
    lines = [
        f'  <value transactionId="{number}" context="{_context(item.receipt)}">',
        f'    <signedData format="OCMF" encoding="{encoding}">{written}</signedData>',
    ]
    if item.public_key:
        lines.append(f'    <publicKey encoding="plain">{item.public_key}</publicKey>')
    else:
        notes.add(item.receipt, "written without a public key, which must be entered by hand")
    return [*lines, "  </value>"]


def _csv(items: Sequence[Item]) -> str:
    written = io.StringIO(newline="")
    table = csv.writer(written)
    table.writerow(_COLUMNS)
    for item in items:
        receipt = item.receipt
        begin, end = receipt.begin, receipt.end
        words = (receipt.meter_serial, receipt.pagination, item.transaction_id, receipt.identification)
        energies_wh = (begin and begin.energy_wh, end and end.energy_wh, receipt.energy_wh)
        table.writerow(
            (
                *(_cell(word or "") for word in words),
                *(rfc3339(one.TM.instant) if one and one.TM else "" for one in (begin, end)),
                *("" if energy_wh is None else f"{energy_wh:f}" for energy_wh in energies_wh),
                receipt.text,
                item.public_key,
            )
        )
    return written.getvalue()


def _ocpp(items: Sequence[Item], notes: _Notes, form: Format) -> tuple[str, int]:
    """Write MeterValue objects: of OCPP 1.6 for meterValue or transactionData, or of OCPP 2.0.1 for meterValue."""
    values: list[dict[str, object]] = []
    for item in items:
        receipt, reading = item.receipt, item.receipt.end or item.receipt.begin
        if reading is None or reading.TM is None:
            notes.add(receipt, "omitted, because OCPP requires a time and it has none")
            continue
        signed = _signed_meter_value(item)
        sampled: dict[str, object]
        if form is Format.OCPP16:
            sampled = {
                "value": json.dumps(signed, separators=(",", ":")),
                "context": _context(receipt),
                "format": "SignedData",
                "measurand": "Energy.Active.Import.Register",
            }
        elif reading.energy_wh is None:
            notes.add(receipt, "omitted, because OCPP 2.0.1 requires an energy value and it has none")
            continue
        else:
            sampled = {
                "value": float(reading.energy_wh),
                "context": _context(receipt),
                "measurand": "Energy.Active.Import.Register",
                "unitOfMeasure": {"unit": "Wh"},
                "signedMeterValue": signed,
            }
            if (size := len(signed["signedMeterData"])) > LONGEST_OCPP_201:
                notes.add(
                    receipt,
                    f"its signedMeterData has {size} characters; OCPP 2.0.1 allows {LONGEST_OCPP_201}, 2.1 allows more",
                )
        values.append({"timestamp": rfc3339(reading.TM.instant), "sampledValue": [sampled]})
    return json.dumps(values, indent=1) + "\n", len(values)


def _context(receipt: Receipt) -> str:
    """Return OCPP's context of a receipt. A tuple with begin and end is sent at the end."""
    return "Transaction.Begin" if half_of(receipt) == "begin" else "Transaction.End"


def _signed_meter_value(item: Item) -> dict[str, str]:
    """Return OCPP's object for a receipt (OCA, Signed Meter Values in OCPP)."""
    return {
        "signedMeterData": _base64(item.receipt.text),
        "signingMethod": "",
        "encodingMethod": "OCMF",
        "publicKey": _base64(f"oca:base16:asn1:{item.public_key}") if item.public_key else "",
    }


def _cell(text: str) -> str:
    """Return a text of a card or meter that no spreadsheet takes for a formula and that is safe on a terminal."""
    word = printable(text, limit=_LONGEST_WORD)
    return f"'{word}" if text.startswith(_FORMULA) or word.startswith(_FORMULA) else word


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
