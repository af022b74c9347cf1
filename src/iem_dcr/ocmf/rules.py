"""The rules: all that can be found in receipts beside their signatures, in one table.

The table stands in the order in which version 1.4.1 of the S.A.F.E. transparency software comes to each matter: it
opens a file, cuts the tuple at each ``|``, reads its fields, checks the signature, and judges a transaction at last. A
finding of `Severity.ERROR` is what makes it refuse a receipt whose signature is valid, and nothing else is one.
`Kind.differs` says where the judgement here is another one all the same.

What it judges: begin and end of the registers it knows (`iem_dcr.ocmf.registers`; of those with the cable's loss taken
out, or where there are none, of all), taken together as one register. It fills in ST and RU where they are left out,
from the judged reading before, and nothing else. It compares bare numbers, in binary. A tuple of one end only, or one
whose PG does not begin with T, is judged by its signature alone; a begin and an end in tuples of their own are judged
as one, and then every judged reading of the begin's tuple has to be as low as every one of the end's, in kWh.

Why this differs where it does: a customer must not be told that a receipt is good when the meter says that its energy
is not usable, when begin and end are of different registers or meters, or when nothing was measured; and a reader has
to end, so numbers and lists are bounded.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iem_dcr.ocmf.receipt import Row


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

    @property
    def asks_for_nothing(self) -> bool:
        """Whether it only explains: nothing has to be done."""
        return self.severity is Severity.INFO and FINDINGS[self.code].to_do == LOOK


@dataclass(frozen=True, slots=True)
class Kind:
    """What a code means.

    Attributes:
        meaning: in words.
        there: what the transparency software does.
        to_do: what the one who holds the receipt can do.
        differs: how the transparency software judges it otherwise, or "".
    """

    severity: Severity
    meaning: str
    there: str
    to_do: str
    differs: str = ""


LOOK = "Look at it; nothing has to be done."
_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO
_STATION = "The meter or the station has to be set right; what is signed stays as it is."
_NO_BILL = "Do not bill this receipt before its operator has explained it."
_BY_REGISTER = "Judge it by the energies shown per register; another reader may be needed."
_OTHER_FILE = "Hand on another file: `receipts export` or `verify --export` writes it."
_REFUSES, _UNREAD, _UNSEEN, _READ = "refuses it", "does not read it", "does not look at it", "reads it alike"

# fmt: off
FINDINGS: dict[str, Kind] = {
    # the file
    "container-not-readable": Kind(_W,
        "The XML is in a form that the transparency software cannot open: data in base64 or hex, a key as PEM, "
        "point or `oca:`, a namespace, other elements around.",
        "does not open the file; the receipt as such is judged as here", _OTHER_FILE),
    "context-swapped": Kind(_E, "The XML calls the end of a transaction its begin, and the begin its end.", _REFUSES,
        _OTHER_FILE),
    # the tuple
    "text-around-tuple": Kind(_E, "Text stands before or behind the tuple in its `<value>`.", _UNREAD, _OTHER_FILE),
    "separator-in-text": Kind(_E, "A | stands within the payload or the signature section.", "cuts the tuple there",
        _STATION),
    "text-not-ascii": Kind(_W, "The signed text holds characters that are not ASCII.",
        "hashes in its computer's own charset: it verifies on one computer and fails on another",
        "Check it where Java's charset is UTF-8; send the meter ASCII only (EUR for €)."),
    "text-too-long": Kind(_W, "TT is longer than 250 characters, or ID longer than 40.", _READ, _STATION),
    "key-repeated": Kind(_E, "The payload gives a key twice.", _UNREAD, _STATION),
    "key-repeated-within": Kind(_W, "A reading, or the signature section, gives a key twice; the last one counts.",
        _READ, _STATION),
    "number-form": Kind(_W, "A number is written as `.5`, `5.`, `007` or `+1`, or RV is padded with blanks.", _READ,
        _STATION),
    "format-version": Kind(_E, "FV is missing, no number, or not from 0.1 to 1.3.", _UNREAD,
        "Use a reader of that version of OCMF; what is signed stays as it is."),
    "field-type": Kind(_E, "A field is of another JSON type than OCMF says.", _UNREAD, _STATION),
    # the signature
    "signature-spelling": Kind(_W,
        "SA, SE or SD is written otherwise than OCMF has it: null, letters of another case, white space, base64 "
        "without padding, DER with long lengths or with more than two integers.", _READ, _STATION),
    "signature-encoding": Kind(_E, "SE has letters of another case, or base64 holds a carriage return.", _UNREAD,
        _STATION),
    "key-spelling": Kind(_W,
        "The public key is base64 without padding, spells its curve out by parameters, or has long lengths.", _READ,
        "Ask for the key as hex of DER; it is the same key."),
    "signature-form": Kind(_E,
        "The signature is not DER as the transparency software reads it: raw r‖s, or an integer that begins with "
        "nine equal bits.", _UNREAD,
        "Export it with --reencode-signature: the numbers stay, and what is signed stays."),
    # the receipt
    "readings-missing": Kind(_E, "RD is missing or holds no reading.", "refuses it where RD is missing", _NO_BILL,
        "it takes an empty RD for a value of its own, and accepts it"),
    "readings-too-many": Kind(_E, "RD holds more than 10,000 readings; the rest was not looked at.", _READ, _NO_BILL,
        "it has no such bound"),
    "value-unreadable": Kind(_E, "RV is not a number.", _REFUSES, _NO_BILL,
        "it reads numbers of more than 40 digits, with exponents beyond two digits, in hexadecimal, with a d or "
        "f behind them, and NaN"),
    "pagination-missing": Kind(_E, "PG is missing or a single character.", _REFUSES, _STATION),
    "pagination-form": Kind(_W, "PG is not T or F and a number without leading zeros.", _READ, _STATION),
    "fiscal": Kind(_I, "PG does not begin with T: begin and end are not judged.", "judges by the signature alone",
        LOOK),
    "meter-missing": Kind(_W, "MS, the meter's serial number, is missing.", _UNSEEN, _STATION),
    "transaction-incomplete": Kind(_W, "Begin or end of the transaction is not in this receipt.",
        "judges by the signature alone", "Check it together with the receipt of the rest."),
    # the transaction
    "meters-differ": Kind(_E, "Begin and end are of different meters.", "refuses it as forged", _NO_BILL,
        "it checks both with one key instead, which fails with another meter's"),
    "identifications-differ": Kind(_W, "Begin and end name different users (ID).", _UNSEEN, _NO_BILL),
    "pagination-falling": Kind(_W, "The end's counter is not above the begin's.", _UNSEEN, _NO_BILL),
    "status-missing": Kind(_E, "ST is missing in the first reading that is judged.", _REFUSES, _STATION),
    "unit-missing": Kind(_E, "The first reading that is judged has no unit (RU).", _REFUSES, _NO_BILL),
    "left-out": Kind(_E,
        "A begin or end leaves out TX, RI, RV or (the begin) TM, or the first reading that is judged leaves out "
        "ST or RU, where it is that of the reading before, as OCMF allows.", "does not fill it in, and refuses it",
        "Judge it by the energies shown here; another reader may be needed."),
    "begin-missing": Kind(_E, "No register that is judged has a begin (TX B).", _REFUSES, _NO_BILL),
    "end-missing": Kind(_E, "No register that is judged has an end (TX E, L, R, A or P).", _REFUSES, _NO_BILL),
    "begin-repeated": Kind(_E, "There is more than one begin.", _REFUSES, _NO_BILL),
    "end-repeated": Kind(_E, "There is more than one end.", _REFUSES, _NO_BILL),
    "registers-mixed": Kind(_E, "Several registers that are judged have a begin or an end.",
        "counts them as one, and so as more than one begin or end", _BY_REGISTER,
        "it subtracts one register from another where there is one begin and one end"),
    "register-spelling": Kind(_W, "Begin and end spell one register differently.", _READ, LOOK),
    "register-unknown": Kind(_W, "RI is missing or no OBIS code of a register of energy that this reader knows.",
        _UNSEEN, LOOK),
    "value-missing": Kind(_E, "A begin or end has no value (RV).", _REFUSES, _NO_BILL),
    "unit-unknown": Kind(_W, "RU is neither kWh nor Wh.", "takes the value for kWh", _NO_BILL),
    "units-mixed": Kind(_W, "Begin and end have different units.", "compares the bare numbers",
        "Judge it by the energies shown here, which are exact."),
    "register-falling": Kind(_E,
        "The register is lower at the end than at the begin, or a reading in the begin's tuple is above one in "
        "the end's.", _REFUSES, _NO_BILL,
        "with mixed units in one tuple it compares the bare numbers; here the energy may not fall either"),
    "register-falling-between": Kind(_W, "A register falls between readings of one tuple, or that of export falls.",
        _UNSEEN, _NO_BILL),
    "time-falling": Kind(_E, "The end is earlier than the begin.", _REFUSES, _NO_BILL),
    "time-falling-between": Kind(_W,
        "A reading is earlier than the one of the same register before it, or a begin or end has a time that "
        "only this reader can read, and falls.", _UNSEEN, LOOK),
    "time-unreadable": Kind(_W, "TM of a begin or end is not a time as OCMF writes it.",
        "compares it where only the flag is odd, the hour is 24:00:00 or the day is past its month; else not",
        _STATION),
    "identification-level": Kind(_E,
        "IL is an error level (MISMATCH, INVALID, OUTDATED, UNKNOWN): the user was not identified.", _REFUSES,
        _NO_BILL),
    "status-not-good": Kind(_E, "ST of a begin or end is not G: the meter reported an error.", _REFUSES, _NO_BILL),
    "status-not-good-between": Kind(_W, "ST of a reading that is neither begin nor end is not G.", _UNSEEN, _NO_BILL),
    "time-flag-missing": Kind(_E, "The begin's TM has no flag of how well the clock is set.", _REFUSES, _STATION),
    "time-flag-missing-at-end": Kind(_W, "The end's TM has no flag of how well the clock is set.",
        "asks for the begin's only", _STATION),
    "time-relative-mixed": Kind(_E, "The begin's time is relative (R) and the end's is not.", _REFUSES, _NO_BILL),
    "time-relative-at-end": Kind(_W, "The end's time is relative (R) and the begin's is not.",
        "refuses only the other way round", LOOK),
    "time-not-synchronised": Kind(_I, "The clock of begin or end was not synchronised (flag U, I or R).",
        "shows the time as information", LOOK),
    "event-counter": Kind(_E, "The event counter EI differs between begin and end (OCMF before 0.5).", _REFUSES,
        _NO_BILL),
    "energy-flag": Kind(_E, "EF of a begin or end contains E: the energy is not usable for billing.", _REFUSES,
        _NO_BILL,
        "it does not see an EF that is left out and taken from the reading before, nor any before OCMF 0.5"),
    "energy-flag-between": Kind(_W, "EF of a reading that is neither begin nor end contains E.", _UNSEEN, _NO_BILL),
    "time-flag": Kind(_W, "EF contains t: the time is not usable for billing.", _UNSEEN, "Do not bill by time."),
    "exception": Kind(_W, "A reading has TX X: from there on time or energy may not be usable (EF says which).",
        _UNSEEN, _NO_BILL),
    # the set
    "pagination-gap": Kind(_W, "Counters of a meter are missing in the set: so are receipts.", _UNSEEN,
        "Fetch the missing receipt from the station's or the driver's journal."),
    "pagination-repeated": Kind(_W,
        "Different receipts of a meter have the same counter: one of them is not what it seems.", _UNSEEN, _NO_BILL),
    "receipt-repeated": Kind(_I, "The same receipt is in the set more than once.", _UNSEEN, LOOK),
}
# fmt: on
"""Every code, its severity, what it means and what happens there."""

UNREAD_HERE = {
    "JSON": "It reads more than JSON: names and texts without quotes, comments, NaN. Here that is not readable.",
    "curve": "It reads curves that OCMF does not name, and takes SHA-256 whatever hash SA names. Here that is not "
    "checked.",
    "key": "It reads a key that has bytes behind it. Here that is not checked.",
}
"""What the transparency software verifies and this reader does not read at all."""


def finding(
    code: str, text: str, *, field: str = "", reading: int | None = None, receipt: int | None = None
) -> Finding:
    """Build a finding of the severity of its code."""
    return Finding(code, FINDINGS[code].severity, reading, field, text, receipt)


class Report(list[Finding]):
    """The findings of an examination, in their order."""

    def add(self, code: str, text: str, field: str = "", row: Row | None = None, of: int | None = None) -> None:
        """Add one: about which field, of which row, and of which receipt by its index."""
        self.append(finding(code, text, field=field, reading=None if row is None else row.at, receipt=of))
