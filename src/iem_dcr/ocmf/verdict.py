"""The verdict on a transaction: its signatures, the findings, and the energy per register.

The import registers decide. The export register of a bidirectional meter is shown but never leads to a refusal, as in
the S.A.F.E. transparency software. `iem_dcr.ocmf.rules` describes the differences from that software.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf.examination import examine
from iem_dcr.ocmf.keys import is_plain
from iem_dcr.ocmf.receipt import Reading, difference_wh, ends_of, parse
from iem_dcr.ocmf.registers import register_of
from iem_dcr.ocmf.rules import Finding, Severity, finding
from iem_dcr.ocmf.signature import Outcome, verify

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

    from iem_dcr.meter_time import MeterTime
    from iem_dcr.ocmf.receipt import Receipt
    from iem_dcr.ocmf.signature import Verification


class Judgement(enum.Enum):
    """The judgement of a transaction. The first that applies counts."""

    INVALID = "invalid"
    """A signature does not match: the data was changed, or the key belongs to another meter."""
    NOT_CHECKED = "not checked"
    """A signature could not be checked, so that the receipt proves nothing."""
    REFUSED = "refused"
    """The signatures match, but there is a finding of `Severity.ERROR`."""
    ACCEPTED = "accepted"
    """The signatures match, and there is no such finding."""


class Energy(NamedTuple):
    """The energy of one register from begin to end.

    Attributes:
        register: its OBIS code (RI).
        direction: "import", "export", or "" if unknown.
        begin_wh: exact value at the begin in Wh, or None.
        end_wh: exact value at the end in Wh, or None.
        energy_wh: exact difference in Wh, or None if a value is missing.
        begin: time of the begin.
        end: time of the end.
        decides: whether the verdict is based on this register.
    """

    register: str
    direction: str
    begin_wh: Decimal | None
    end_wh: Decimal | None
    energy_wh: Decimal | None
    begin: MeterTime | None
    end: MeterTime | None
    decides: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on a transaction of one or two receipts.

    Attributes:
        judgement: the judgement.
        verifications: the verification of each receipt, in order.
        findings: the findings. Each has the index of its receipt.
        energies: the energy of each register, in the order of the receipts. Empty without any begin or end.
    """

    judgement: Judgement
    verifications: tuple[Verification, ...]
    findings: tuple[Finding, ...]
    energies: tuple[Energy, ...]

    @property
    def deciding(self) -> Energy | None:
        """The energy of the register that decides, or None if there is not exactly one."""
        deciding = [energy for energy in self.energies if energy.decides]
        return deciding[0] if len(deciding) == 1 else None

    @property
    def energy_wh(self) -> Decimal | None:
        """The exact energy of the transaction in Wh, or None if it is unknown."""
        return None if self.deciding is None else self.deciding.energy_wh

    @property
    def outcome(self) -> Outcome:
        """The combined outcome of the checks of all signatures."""
        outcomes = {Judgement.INVALID: Outcome.INVALID, Judgement.NOT_CHECKED: Outcome.NOT_CHECKED}
        return outcomes.get(self.judgement, Outcome.VALID)

    @property
    def reason(self) -> str:
        """The reason for `outcome`."""
        return next(one.reason for one in self.verifications if one.outcome is self.outcome)

    @property
    def errors(self) -> tuple[str, ...]:
        """The distinct codes for which the transparency software refuses the transaction."""
        return tuple(dict.fromkeys(one.code for one in self.findings if one.severity is Severity.ERROR))


def verdict_on(receipts: Sequence[Receipt], public_key: str) -> Verdict:
    """Check the signatures of a transaction's receipts with the meter's key, and judge it. Never raises."""
    keys = [public_key] * len(receipts)
    return judge(receipts, [verify(receipt, public_key) for receipt in receipts], keys)


def judge(
    receipts: Sequence[Receipt],
    verifications: Sequence[Verification],
    public_keys: Sequence[str] = (),
    found_before: Sequence[Finding] = (),
) -> Verdict:
    """Judge a transaction: one receipt, or one for the begin and one for the end, in this order.

    Args:
        receipts: at least one receipt.
        verifications: the verification of each receipt.
        public_keys: the key of each receipt, to judge its form too. May be omitted.
        found_before: findings about the file of the receipts.

    Raises:
        ValueError: there is no receipt, or their number differs from that of the verifications.
    """
    if not receipts or len(receipts) != len(verifications):
        raise ValueError(f"{len(receipts)} receipts and {len(verifications)} verifications are not a transaction")
    findings = (*found_before, *examine(*receipts), *_of_keys(receipts, public_keys))
    outcomes = {verification.outcome for verification in verifications}
    if Outcome.INVALID in outcomes:
        judgement = Judgement.INVALID
    elif Outcome.NOT_CHECKED in outcomes:
        judgement = Judgement.NOT_CHECKED
    elif any(found.severity is Severity.ERROR for found in findings):
        judgement = Judgement.REFUSED
    else:
        judgement = Judgement.ACCEPTED
    return Verdict(judgement, tuple(verifications), findings, energies_of(receipts))


def _of_keys(receipts: Sequence[Receipt], public_keys: Sequence[str]) -> Iterator[Finding]:
    for number, (receipt, key) in enumerate(zip(receipts, public_keys, strict=False)):
        if not is_plain(key, receipt.algorithm):
            yield finding("key-spelling", "the public key has an unusual form", receipt=number)


def energies_of(receipts: Sequence[Receipt]) -> tuple[Energy, ...]:
    """Return the energy of each register with a begin or an end. Of judged registers, those of import decide."""
    rows = [row for receipt in receipts for row in receipt.rows]
    counted = []
    for begins, ends in ends_of(rows).values():
        begin, end = begins[0].reading if begins else Reading(), ends[-1].reading if ends else Reading()
        RI = (begins or ends)[0].reading.RI
        counted.append((RI, register_of(RI), begin, end))
    judged = [register for _, register, _, _ in counted if register is not None and register.judged]
    if len(judged) > 1:
        compensated = any(register.compensated for row in rows if (register := register_of(row.reading.RI)))
        judged = [register for register in judged if register.compensated or not compensated]
        judged = [register for register in judged if register.direction == "import"] or judged
    deciding = frozenset(judged)  # a receipt may have thousands of registers
    energies = []
    for RI, register, begin, end in counted:
        direction = register.direction if register else ""
        values = begin.energy_wh, end.energy_wh
        energies.append(
            Energy(RI, direction, *values, difference_wh(*values), begin.TM, end.TM, decides=register in deciding)
        )
    return tuple(energies)


def energy_summary(energies: Sequence[Energy]) -> str:
    """Format the energy of a transaction: ``8.100 kWh``, or ``0.000 kWh import, 5.200 kWh export`` if energy was fed
    back. Return "" if the energy is unknown.
    """
    import_wh, export_wh = (_of_direction(energies, direction) for direction in ("import", "export"))
    if export_wh:
        return (f"{_kwh(import_wh)} import, " if import_wh is not None else "") + f"{_kwh(export_wh)} export"
    deciding = [energy.energy_wh for energy in energies if energy.decides]
    energy_wh = deciding[0] if len(deciding) == 1 else import_wh
    return "" if energy_wh is None else _kwh(energy_wh)


def energy_summary_of(receipt: Receipt) -> str:
    """Format the energy of a receipt's transaction as `energy_summary` does."""
    return energy_summary(energies_of([receipt]))


def energy_summary_of_text(text: str) -> str:
    """Format the energy of a tuple's transaction as `energy_summary` does. Return "" if the tuple is unreadable."""
    try:
        return energy_summary_of(parse(text))
    except ReceiptError:
        return ""


def _of_direction(energies: Sequence[Energy], direction: str) -> Decimal | None:
    """Return the energy of a direction: of the register that decides, or of the first one with a known energy."""
    told = [energy for energy in energies if energy.direction == direction and energy.energy_wh is not None]
    told = [energy for energy in told if energy.decides] or told
    return told[0].energy_wh if told else None


def _kwh(energy_wh: Decimal) -> str:
    return f"{energy_wh / 1000:.3f} kWh"
