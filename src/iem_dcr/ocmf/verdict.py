"""The verdict on a transaction: its signatures, the findings, and the energy per register.

Import decides: export of a bidirectional meter stands beside it and refuses nothing, as in the S.A.F.E. transparency
software (`iem_dcr.ocmf.findings` says where this judges as it does).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iem_dcr.ocmf.findings import Finding, Severity, examine_transaction
from iem_dcr.ocmf.receipt import difference_wh
from iem_dcr.ocmf.registers import register_of
from iem_dcr.ocmf.transaction import ends_of, judged_of, rows_of
from iem_dcr.ocmf.verify import Outcome, verify

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from iem_dcr.meter_time import MeterTime
    from iem_dcr.ocmf.receipt import Receipt
    from iem_dcr.ocmf.verify import Verification


class Judgement(enum.Enum):
    """What is to be thought of a transaction, in the order in which it is asked."""

    INVALID = "invalid"
    """A signature does not match: something was changed, or the key is another meter's."""
    NOT_CHECKED = "not checked"
    """A signature could not be checked: nothing is known of what the receipt says."""
    REFUSED = "refused"
    """The signatures match, and there is a finding of `Severity.ERROR`."""
    ACCEPTED = "accepted"
    """The signatures match, and nothing speaks against the transaction."""


@dataclass(frozen=True, slots=True)
class Energy:
    """What one register counted from begin to end.

    Attributes:
        register: its OBIS code (RI).
        direction: "import", "export", or "" where it is not known.
        begin_wh: value at the begin in Wh, exactly; None without one.
        end_wh: value at the end in Wh, exactly; None without one.
        energy_wh: the difference, exactly; None where one of the two is.
        begin: time of the begin.
        end: time of the end.
        decides: whether the verdict is about this register.
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
    """The verdict on a transaction of one receipt or more.

    Attributes:
        verifications: those of the receipts, in their order.
        findings: with the index of the receipt each is about.
        energies: per register, in the order in which they appear; empty without any begin or end.
    """

    judgement: Judgement
    verifications: tuple[Verification, ...]
    findings: tuple[Finding, ...]
    energies: tuple[Energy, ...]

    @property
    def deciding(self) -> Energy | None:
        """What the register that decides counted; None where none does, or more than one."""
        deciding = [energy for energy in self.energies if energy.decides]
        return deciding[0] if len(deciding) == 1 else None

    @property
    def energy_wh(self) -> Decimal | None:
        """Energy of the transaction in Wh, exactly; None where it cannot be told."""
        return None if self.deciding is None else self.deciding.energy_wh


def verdict_on(receipts: Sequence[Receipt], public_key: str) -> Verdict:
    """Check the signatures of a transaction's receipts with their meter's key, and judge it. Never raises."""
    return judge(receipts, [verify(receipt, public_key) for receipt in receipts])


def judge(receipts: Sequence[Receipt], verifications: Sequence[Verification]) -> Verdict:
    """Judge a transaction: one receipt, or begin and end each in a receipt of its own, in their order.

    Args:
        receipts: at least one.
        verifications: what became of the check of each receipt's signature.

    Raises:
        ValueError: there is no receipt, or not one verification for each.
    """
    if not receipts or len(receipts) != len(verifications):
        raise ValueError(f"{len(receipts)} receipts and {len(verifications)} verifications are no transaction")
    findings = examine_transaction(receipts)
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


def energies_of(receipts: Sequence[Receipt]) -> tuple[Energy, ...]:
    """Return what each register with a begin or an end counted; of judged registers, those of import decide."""
    rows = rows_of(receipts)
    judged = set(ends_of(judged_of(rows)))
    imported = {code for code in judged if _direction(code) == "import"}
    energies = []
    for code, ends in ends_of(rows).items():
        begin = ends.begin.reading if ends.begin else None
        end = ends.end.reading if ends.end else None
        begin_wh, end_wh = (reading.energy_wh if reading else None for reading in (begin, end))
        energies.append(
            Energy(
                register=code,
                direction=_direction(code),
                begin_wh=begin_wh,
                end_wh=end_wh,
                energy_wh=difference_wh(begin_wh, end_wh),
                begin=begin.TM if begin else None,
                end=end.TM if end else None,
                decides=code in (imported or judged),
            )
        )
    return tuple(energies)


def _direction(code: str) -> str:
    register = register_of(code)
    return register.direction if register else ""
