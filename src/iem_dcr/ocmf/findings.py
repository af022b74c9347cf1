"""What is wrong, or worth knowing, beside the signature: of one receipt, and of a set.

Judged as version 1.4.1 of the S.A.F.E. transparency software judges a transaction whose signature is valid: every
finding of `Severity.ERROR` makes it refuse, and nothing else does. It looks at begin and end of the registers it knows
(`iem_dcr.ocmf.transaction.judged_of`; export 2.8.x is none of them), at IL, and at no reading between. A record of one
end only, or of the context F, is judged by its signature alone.

Where this differs, and why:

* Fields left out are taken from the reading before, as OCMF has it; the software does so for ST and RU alone. What it
  therefore does not see is an error of its own (``left-out``), so that the reason can be told from a missing value. An
  E in EF that is inherited is an error here and unseen there: the meter said that the energy is not usable.
* Begin, end and falling are told per register. The software counts all registers it knows as one: with two of them it
  refuses, or subtracts one from the other (``registers-mixed``).
* Numbers are exact decimals, and compared in Wh; it compares binary fractions and does not look at the units.
  A falling of either kind is an error.
* Numbers and texts beyond all measure are errors: `Reading.RV` has at most 40 digits on either side of its point, RD
  at most 10,000 readings. An empty RD is an error: such a receipt says nothing.
* Begin and end of different meters are an error. The software checks both receipts with one key and so refuses them
  as forged.
* Before OCMF 0.5 it reads no EF; here it is read.
* The flag of TM: only the begin's must be there, and only a relative begin (R) with an end that is not is refused. The
  other way round is a warning, as is a missing flag of the end.
"""

from __future__ import annotations

from iem_dcr.ocmf.examination import examine, examine_transaction
from iem_dcr.ocmf.finding_codes import FINDINGS, Finding, Kind, Severity
from iem_dcr.ocmf.finding_sets import examine_counters, examine_set, transactions_of

__all__ = [
    "FINDINGS",
    "Finding",
    "Kind",
    "Severity",
    "examine",
    "examine_counters",
    "examine_set",
    "examine_transaction",
    "transactions_of",
]
