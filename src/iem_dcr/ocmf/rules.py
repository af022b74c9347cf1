"""The rules: one table of all findings about receipts, except those about the signature's validity.

The table has the order in which version 1.4.1 of the S.A.F.E. transparency software works. It opens a file, splits the
tuple at each ``|``, reads its fields, checks the signature, and finally judges the transaction. A finding has
`Severity.ERROR` exactly if that software refuses a receipt for it although the signature is valid. `Kind.differs`
describes the exceptions.

That software judges begin and end of the registers that it knows (`iem_dcr.ocmf.registers`). If some of them have the
cable's loss subtracted, it judges only these. It treats all judged registers as one. It inherits only ST and RU, from
the previous judged reading. It compares the numbers without their units, in binary. If a tuple has only a begin or only
an end, or if its PG does not begin with T, it checks only the signature. It judges a begin and an end in separate
tuples together. Then no judged reading of the begin's tuple may exceed one of the end's tuple, in kWh. Here the last
and the first reading of each register are compared.

This program differs for two reasons. It must not accept a receipt if the meter says that its energy is not usable, if
begin and end belong to different registers or meters, or if nothing was measured. And it must not run for ever, so
numbers and lists have limits.

That software verifies some receipts that this program cannot read or check. It reads more than JSON: names and texts
without quotes, comments, NaN, numbers such as ``.5`` and ``007``. It supports curves that OCMF does not name, uses
SHA-256 for any hash in SA, and reads a key with trailing bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iem_dcr.ocmf.receipt import Row


class Severity(enum.Enum):
    """The severity of a finding."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about a receipt.

    Attributes:
        code: a key of `FINDINGS`. Codes are stable across versions.
        severity: the severity of the code.
        reading: index of the reading in RD that it is about, or None.
        field: OCMF's name of the field that it is about, such as ``RV``, or "".
        text: a description that is safe to print.
        receipt: index of the receipt among those examined, or None if it is about several.
    """

    code: str
    severity: Severity
    reading: int | None
    field: str
    text: str
    receipt: int | None = None

    @property
    def asks_for_nothing(self) -> bool:
        """Whether it only explains something."""
        return self.severity is Severity.INFO and FINDINGS[self.code].to_do == LOOK


@dataclass(frozen=True, slots=True)
class Kind:
    """The meaning of a code.

    Attributes:
        severity: the severity of its findings.
        meaning: the meaning in words.
        there: what the transparency software does.
        to_do: what the owner of the receipt can do.
        differs: how the judgement of the transparency software differs, or "".
    """

    severity: Severity
    meaning: str
    there: str
    to_do: str
    differs: str = ""


LOOK = "No action is needed."
_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO
_STATION = "Correct the configuration of the meter or the station. Receipts that are already signed do not change."
_NO_BILL = "Do not bill this receipt until the operator of the meter has explained it."
_BY_REGISTER = "Use the energies shown per register. Another reader may be needed."
_OTHER_FILE = "Use another file: `receipts export` or `verify --export` writes it."
_REFUSES, _UNREAD, _UNSEEN, _READ = "refuses it", "cannot read it", "does not check it", "reads it in the same way"

# fmt: off
FINDINGS: dict[str, Kind] = {
    # the file
    "container-not-readable": Kind(_W,
        "The transparency software cannot open the XML, because it has data in base64 or hex, a key as PEM, point or "
        "`oca:`, a namespace, or enclosing elements.",
        "cannot open the file, but judges the receipt in the same way", _OTHER_FILE),
    "context-swapped": Kind(_E, "The XML swaps the begin and the end of a transaction.", _REFUSES, _OTHER_FILE),
    # the tuple
    "text-around-tuple": Kind(_E, "There is text before or after the tuple in its `<value>`.", _UNREAD, _OTHER_FILE),
    "separator-in-text": Kind(_E, "The payload or the signature section contains a |.", "splits the tuple there",
        _STATION),
    "text-not-ascii": Kind(_W, "The signed text contains characters that are not ASCII.",
        "hashes in the charset of its computer, so that it verifies on one computer and fails on another",
        "Check it on a computer on which Java's charset is UTF-8. Send only ASCII to the meter (EUR for €)."),
    "text-too-long": Kind(_W, "TT is longer than 250 characters, or ID is longer than 40.", _READ, _STATION),
    "key-repeated": Kind(_E, "The payload has a key twice.", _UNREAD, _STATION),
    "key-repeated-within": Kind(_W, "A reading or the signature section has a key twice. The last one counts.",
        _READ, _STATION),
    "number-form": Kind(_W, "RV is written as `.5` or `5.`, or padded with blanks.", _READ, _STATION),
    "format-version": Kind(_E, "FV is missing, is not a number, or is not from 0.1 to 1.3.", _UNREAD,
        "Use a reader of that version of OCMF. The signed data does not change."),
    "field-type": Kind(_E, "A field has another JSON type than OCMF requires.", _UNREAD, _STATION),
    # the signature
    "signature-spelling": Kind(_W,
        "SA, SE or SD is not written as OCMF specifies: null, letters of another case, white space, base64 without "
        "padding, DER with long lengths or with more than two integers.", _READ, _STATION),
    "signature-encoding": Kind(_E, "SE has letters of another case, or base64 contains a carriage return.", _UNREAD,
        _STATION),
    "key-spelling": Kind(_W,
        "The public key is base64 without padding, gives its curve by parameters, or has long lengths.", _READ,
        "Ask for the key as hex of DER. It is the same key."),
    "signature-form": Kind(_E,
        "The signature is not DER that the transparency software reads: it is raw r‖s, or an integer begins with nine "
        "equal bits.", _UNREAD,
        "Export it with --reencode-signature, which changes neither the numbers nor the signed data."),
    # the receipt
    "readings-missing": Kind(_E, "RD is missing or has no reading.", "refuses it if RD is missing", _NO_BILL,
        "it accepts an empty RD"),
    "readings-too-many": Kind(_E, "RD has more than 10,000 readings. The rest was not checked.", _READ, _NO_BILL,
        "it has no such limit"),
    "value-unreadable": Kind(_E, "RV is not a number.", _REFUSES, _NO_BILL,
        "it reads numbers of more than 40 digits, with exponents of more than two digits, in hexadecimal, with a "
        "trailing d or f, and NaN"),
    "pagination-missing": Kind(_E, "PG is missing or a single character.", _REFUSES, _STATION),
    "pagination-form": Kind(_W, "PG is not T or F and a number without leading zeros.", _READ, _STATION),
    "fiscal": Kind(_I, "PG does not begin with T: begin and end are not judged.", "checks only the signature",
        LOOK),
    "meter-missing": Kind(_W, "MS, the meter's serial number, is missing.", _UNSEEN, _STATION),
    "transaction-incomplete": Kind(_W, "The begin or the end of the transaction is not in this receipt.",
        "checks only the signature", "Check it together with the receipt of the other part."),
    # the transaction
    "meters-differ": Kind(_E, "Begin and end belong to different meters.", "refuses it as forged", _NO_BILL,
        "it checks both with one key instead, which fails for another meter"),
    "identifications-differ": Kind(_W, "Begin and end name different users (ID).", _UNSEEN, _NO_BILL),
    "pagination-falling": Kind(_W, "The end's counter is not above the begin's.", _UNSEEN, _NO_BILL),
    "status-missing": Kind(_E, "ST is missing in the first judged reading.", _REFUSES, _STATION),
    "unit-missing": Kind(_E, "The first judged reading has no unit (RU).", _REFUSES, _NO_BILL),
    "left-out": Kind(_E,
        "A begin or end inherits TX, RI, RV or (the begin) TM from the previous reading, or the first judged reading "
        "inherits ST or RU, as OCMF allows.", "does not inherit it, and refuses the receipt",
        "Use the energies shown here. Another reader may be needed."),
    "begin-missing": Kind(_E, "No judged register has a begin (TX B).", _REFUSES, _NO_BILL),
    "end-missing": Kind(_E, "No judged register has an end (TX E, L, R, A or P).", _REFUSES, _NO_BILL),
    "begin-repeated": Kind(_E, "There is more than one begin.", _REFUSES, _NO_BILL),
    "end-repeated": Kind(_E, "There is more than one end.", _REFUSES, _NO_BILL),
    "registers-mixed": Kind(_E, "Several judged registers have a begin or an end.",
        "counts them as one register with more than one begin or end", _BY_REGISTER,
        "it subtracts one register from another if there are one begin and one end"),
    "register-spelling": Kind(_W, "Begin and end write the same register differently.", _READ, LOOK),
    "register-unknown": Kind(_W, "RI is missing, or is not an OBIS code of energy that this reader knows.",
        _UNSEEN, LOOK),
    "value-missing": Kind(_E, "A begin or end has no value (RV).", _REFUSES, _NO_BILL),
    "unit-unknown": Kind(_W, "RU is neither kWh nor Wh.", "reads the value as kWh", _NO_BILL),
    "units-mixed": Kind(_W, "Begin and end have different units.", "compares the numbers without units",
        "Use the energies shown here, which are exact."),
    "register-falling": Kind(_E,
        "The register is lower at the end than at the begin, or a reading in the begin's tuple is above one in "
        "the end's.", _REFUSES, _NO_BILL,
        "with mixed units in one tuple it compares the numbers without units, while here the energy may not fall "
        "either"),
    "register-falling-between": Kind(_W,
        "A register falls between readings of one tuple, or the export register falls.", _UNSEEN, _NO_BILL),
    "time-falling": Kind(_E, "The end is earlier than the begin.", _REFUSES, _NO_BILL,
        "it does not compare a time without a flag or with a colon in its offset"),
    "time-falling-between": Kind(_W, "A reading is earlier than the previous one of the same register.", _UNSEEN,
        LOOK),
    "time-unreadable": Kind(_W, "TM of a begin or end is not a time in OCMF's format.",
        "compares it only if just the flag is unusual, the hour is 24:00:00 or the day is past the end of its month",
        _STATION, "it refuses an end that is earlier by such a time"),
    "identification-level": Kind(_E,
        "IL is an error level (MISMATCH, INVALID, OUTDATED, UNKNOWN): the user was not identified.", _REFUSES,
        _NO_BILL),
    "status-not-good": Kind(_E, "ST of a begin or end is not G: the meter reported an error.", _REFUSES, _NO_BILL),
    "status-not-good-between": Kind(_W, "ST of a reading that is neither begin nor end is not G.", _UNSEEN, _NO_BILL),
    "time-flag-missing": Kind(_E, "The begin's TM has no flag for the state of the clock.", _REFUSES, _STATION),
    "time-flag-missing-at-end": Kind(_W, "The end's TM has no flag for the state of the clock.",
        "requires only that of the begin", _STATION),
    "time-relative-mixed": Kind(_E, "The begin's time is relative (R) and the end's is not.", _REFUSES, _NO_BILL),
    "time-relative-at-end": Kind(_W, "The end's time is relative (R) and the begin's is not.",
        "refuses only the opposite", LOOK),
    "time-not-synchronised": Kind(_I, "The clock of begin or end was not synchronised (flag U, I or R).",
        "shows the time as information", LOOK),
    "event-counter": Kind(_E, "The event counter EI differs between begin and end (OCMF before 0.5).", _REFUSES,
        _NO_BILL),
    "energy-flag": Kind(_E, "EF of a begin or end contains E: the energy is not usable for billing.", _REFUSES,
        _NO_BILL,
        "it ignores an inherited EF, and every EF before OCMF 0.5"),
    "energy-flag-between": Kind(_W, "EF of a reading that is neither begin nor end contains E.", _UNSEEN, _NO_BILL),
    "time-flag": Kind(_W, "EF contains t: the time is not usable for billing.", _UNSEEN, "Do not bill by time."),
    "exception": Kind(_W, "A reading has TX X: from then on time or energy may not be usable, as EF says.",
        _UNSEEN, _NO_BILL),
    # the set
    "pagination-gap": Kind(_W, "Counters of a meter are missing in the set, so receipts are missing.", _UNSEEN,
        "Get the missing receipt from the journal of the station or the driver."),
    "pagination-repeated": Kind(_W,
        "Different receipts of a meter have the same counter. One of them is not genuine.", _UNSEEN, _NO_BILL),
    "receipt-repeated": Kind(_I, "The same receipt is in the set more than once.", _UNSEEN, LOOK),
}
# fmt: on
"""All codes of findings."""


def finding(
    code: str, text: str, *, field: str = "", reading: int | None = None, receipt: int | None = None
) -> Finding:
    """Create a finding with the severity of its code."""
    return Finding(code, FINDINGS[code].severity, reading, field, text, receipt)


class Report(list[Finding]):
    """The findings of an examination, in order."""

    def add(self, code: str, text: str, field: str = "", row: Row | None = None, of: int | None = None) -> None:
        """Add a finding about a field of a row, and of the receipt with index ``of``."""
        self.append(finding(code, text, field=field, reading=None if row is None else row.at, receipt=of))
