"""CSV as ``iem-dcr receipts export --format csv`` writes it: a column ``tuple``, and one ``public_key``."""

from __future__ import annotations

import csv
import io

from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.document_text import Found, at_most

TUPLE, KEY = "tuple", "public_key"


def is_csv(text: str) -> bool:
    """Whether the first line names the columns of a CSV with tuples."""
    line = text[:2000].lstrip("\ufeff").partition("\n")[0]
    return TUPLE in [name.strip().strip('"') for name in line.split(",")]


def read_csv(text: str) -> list[Found]:
    """Read the tuples of the rows; one without a tuple (erased) is left out.

    Raises:
        ReceiptError: it is no CSV, a field is longer than 131,072 characters, or there are too many tuples.
    """
    rows = csv.DictReader(io.StringIO(text.lstrip("\ufeff"), newline=""))
    try:
        return at_most(
            Found(row[TUPLE], row.get(KEY) or "", f"row {number}")
            for number, row in enumerate(rows, 1)
            if row.get(TUPLE)
        )
    except csv.Error as error:
        raise ReceiptError(f"CSV that cannot be read: line {rows.line_num}: {printable(error)}") from error
