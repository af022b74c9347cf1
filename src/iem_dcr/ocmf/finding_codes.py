"""What can be found in receipts beside their signatures: one table of codes, which the documentation is held against.

`Severity.ERROR` is what makes the S.A.F.E. transparency software, version 1.4.1, refuse a receipt whose signature is
valid. Where this differs from it, the entry of the code says so in ``differs``, and `iem_dcr.ocmf.findings` why.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.Enum):
    """How much a finding weighs."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: which, a key of `FINDINGS`; codes do not change from version to version.
        severity: that of the code.
        reading: index of the reading in RD it is about, or None.
        field: OCMF's name of the field it is about, ``RV``; "" where it is about none.
        text: what was found, in words; fit to be printed.
        receipt: index of the receipt within the set that was examined; None for a single receipt, and where it is
            about no single one.
    """

    code: str
    severity: Severity
    reading: int | None
    field: str
    text: str
    receipt: int | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """What a code means.

    Attributes:
        meaning: in words.
        to_do: what the one who holds the receipt can do.
        differs: how the transparency software judges it otherwise, or "".
    """

    severity: Severity
    meaning: str
    to_do: str
    differs: str = ""


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO
_STATION = "The meter or the station has to be set right; what is signed stays as it is."
_NO_BILL = "Do not bill this receipt before its operator has explained it."
_LOOK = "Look at it; nothing has to be done."
_FETCH = "Fetch the missing receipt from the station's or the driver's journal."

FINDINGS: dict[str, Kind] = {
    # the tuple as a text
    "separator-in-text": Kind(
        _E, "A | stands within the payload or the signature section: other readers cut the tuple there.", _STATION
    ),
    "text-not-ascii": Kind(
        _W,
        "The signed text holds characters that are not ASCII: the transparency software hashes in its computer's own "
        "charset, so it verifies on one computer and fails on another.",
        "Check it where Java's charset is UTF-8; send the meter ASCII only (EUR for €).",
    ),
    "text-too-long": Kind(_W, "TT is longer than 250 characters, or ID longer than 40.", _STATION),
    "field-type": Kind(_E, "A field is of another JSON type than OCMF says: the tuple is not read at all.", _STATION),
    "format-version": Kind(
        _E,
        "FV is missing, no number, or not from 0.1 to 1.3: version 1.4.1 reads no other.",
        "Use a reader of that version of OCMF; what is signed stays as it is.",
    ),
    "signature-form": Kind(
        _E,
        "The signature is not DER as the transparency software reads it: raw r‖s, or an integer that begins with "
        "nine equal bits.",
        "Export it with --reencode-signature: the numbers stay, and what is signed stays.",
    ),
    "pagination-missing": Kind(_E, "PG is missing or a single character.", _STATION),
    "pagination-form": Kind(_W, "PG is not T or F and a number without leading zeros.", _STATION),
    "fiscal": Kind(
        _I, "PG counts fiscal readings (F): the signature is all that is judged, begin and end are not.", _LOOK
    ),
    "meter-missing": Kind(_W, "MS, the meter's serial number, is missing.", _STATION),
    "identification-level": Kind(
        _E, "IL is an error level (MISMATCH, INVALID, OUTDATED, UNKNOWN): the user was not identified.", _NO_BILL
    ),
    # readings
    "readings-missing": Kind(
        _E,
        "RD is missing or holds no reading.",
        _NO_BILL,
        "it takes an empty RD for a value of its own, and accepts it",
    ),
    "readings-too-many": Kind(
        _E, "RD holds more than 10,000 readings; the rest was not looked at.", _NO_BILL, "it has no such bound"
    ),
    "transaction-incomplete": Kind(
        _W, "Begin or end of the transaction is not in this receipt.", "Check it together with the receipt of the rest."
    ),
    "begin-missing": Kind(_E, "No register that is judged has a begin (TX B).", _NO_BILL),
    "end-missing": Kind(_E, "No register that is judged has an end (TX E, L, R, A or P).", _NO_BILL),
    "begin-repeated": Kind(_E, "A register has more than one begin.", _NO_BILL),
    "end-repeated": Kind(_E, "A register has more than one end.", _NO_BILL),
    "registers-mixed": Kind(
        _E,
        "Several registers that are judged have a begin or an end: the transparency software counts them as one, and "
        "so as more than one begin or end.",
        "Judge it by the energies shown per register; another reader may be needed.",
    ),
    "left-out": Kind(
        _E,
        "A begin or end leaves out TX, RI, RV or (the begin) TM, or the first reading that is judged leaves out ST or "
        "RU, where it is that of the reading before: OCMF allows it, the transparency software does not fill it in.",
        "Judge it by the energies shown here; another reader may be needed.",
    ),
    "register-unknown": Kind(
        _W, "RI is missing or no OBIS code of a register of energy that this reader knows.", _LOOK
    ),
    "value-missing": Kind(_E, "A begin or end has no value (RV).", _NO_BILL),
    "value-unreadable": Kind(
        _E,
        "RV is not a number.",
        _NO_BILL,
        "it reads numbers of more than 40 digits, with exponents beyond two digits, and NaN",
    ),
    "unit-missing": Kind(_E, "The first reading that is judged has no unit (RU).", _NO_BILL),
    "unit-unknown": Kind(_W, "RU is neither kWh nor Wh: the transparency software takes the value for kWh.", _NO_BILL),
    "units-mixed": Kind(
        _W,
        "Begin and end of a register have different units: the transparency software compares the bare numbers.",
        "Judge it by the energies shown here, which are exact.",
    ),
    "register-falling": Kind(
        _E,
        "The register is lower at the end than at the begin.",
        _NO_BILL,
        "with mixed units it compares the bare numbers; here the energy may not fall either",
    ),
    "register-falling-between": Kind(
        _W, "A register falls between readings of the transaction, or that of export falls.", _NO_BILL
    ),
    "time-falling": Kind(_E, "The end is earlier than the begin.", _NO_BILL),
    "time-falling-between": Kind(_W, "A reading is earlier than the one of the same register before it.", _LOOK),
    "time-unreadable": Kind(
        _W, "TM of a begin or end is not a time as OCMF writes it: order was not checked.", _STATION
    ),
    "time-flag-missing": Kind(_E, "The begin's TM has no flag of how well the clock is set.", _STATION),
    "time-flag-missing-at-end": Kind(
        _W, "The end's TM has no flag of how well the clock is set; only the begin's is asked for.", _STATION
    ),
    "time-relative-mixed": Kind(_E, "The begin's time is relative (R) and the end's is not.", _NO_BILL),
    "time-relative-at-end": Kind(
        _W, "The end's time is relative (R) and the begin's is not; only the other way round is refused.", _LOOK
    ),
    "time-not-synchronised": Kind(
        _I, "The clock of begin or end was not synchronised (flag U, I or R): the time is for information.", _LOOK
    ),
    "status-missing": Kind(_E, "ST is missing in the first reading that is judged.", _STATION),
    "status-not-good": Kind(_E, "ST of a begin or end is not G: the meter reported an error.", _NO_BILL),
    "status-not-good-between": Kind(_W, "ST of a reading that is neither begin nor end is not G.", _NO_BILL),
    "energy-flag": Kind(_E, "EF of a begin or end contains E: the energy is not usable for billing.", _NO_BILL),
    "energy-flag-between": Kind(_W, "EF of a reading that is neither begin nor end contains E.", _NO_BILL),
    "time-flag": Kind(_W, "EF contains t: the time is not usable for billing.", "Do not bill by time."),
    "exception": Kind(
        _W, "A reading has TX X: from there on time or energy may not be usable (EF says which).", _NO_BILL
    ),
    "event-counter": Kind(_E, "The event counter EI differs between begin and end (OCMF before 0.5).", _NO_BILL),
    # several receipts
    "meters-differ": Kind(
        _E,
        "Begin and end are of different meters.",
        _NO_BILL,
        "it checks both with one key instead, which fails with another meter's",
    ),
    "identifications-differ": Kind(
        _W, "Begin and end name different users (ID).", _NO_BILL, "it does not compare them"
    ),
    "pagination-falling": Kind(_W, "The end's counter is not above the begin's.", _NO_BILL, "it does not compare them"),
    "pagination-gap": Kind(_W, "Counters of a meter are missing in the set: so are receipts.", _FETCH),
    "pagination-repeated": Kind(
        _W, "Different receipts of a meter have the same counter: one of them is not what it seems.", _NO_BILL
    ),
    "receipt-repeated": Kind(_I, "The same receipt is in the set more than once.", _LOOK),
}
"""Every code, its severity and what it means."""


def finding(
    code: str, text: str, *, field: str = "", reading: int | None = None, receipt: int | None = None
) -> Finding:
    """Build a finding of the severity of its code."""
    return Finding(code, FINDINGS[code].severity, reading, field, text, receipt)
