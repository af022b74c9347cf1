"""Another implementation of OCMF, pyocmf, reads what is signed here, refuses what was changed, and judges alike."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from iem_dcr.ocmf.examination import examine
from iem_dcr.ocmf.keys import CURVES
from iem_dcr.ocmf.rules import Severity
from tests.support.ocmf_signing import CurveSigner
from tests.support.tools import needs_module
from tests.test_ocmf_findings import CASES, GOOD
from tests.test_simulator_nodes import Bench

PAYLOAD = '{"FV":"1.0","PG":"T1","MS":"M1","RD":[]}'
NOT_JUDGED = {
    "format-version", "signature-form", "pagination-missing", "left-out", "value-missing", "unit-missing",
    "time-flag-missing", "key-repeated", "signature-encoding",
}  # fmt: skip
"""pyocmf reads every FV, fills in what is left out, asks for nothing that may be missing, and looks at no form."""
NOT_ALIKE = {"units-mixed", "unit-unknown", "time-unreadable", "number-form", "register-spelling", "fiscal"}
UNREAD = {("field-type", "IS"), ("identification-level", "IS")}
NOT_COMPARED = {
    receipt.text
    for receipt, expected in CASES
    for code, _, field in expected
    if code in NOT_ALIKE or (code, field) in UNREAD
}
"""It refuses mixed units and times that are none, which the transparency software lets pass, and reads IS in its
newer meaning."""


def signed_here() -> list[tuple[str, str]]:
    """Tuples and keys: of the simulated meter, and of every algorithm but those on the brainpool curves.

    Those pyocmf names otherwise than SA does.
    """
    bench = Bench(signature_encoding="der")
    signers = [CurveSigner(curve) for curve in CURVES if not curve.name.startswith("brainpool")]
    of_curves = [(signer.tuple_of(PAYLOAD), signer.spki) for signer in signers]
    return [(bench.session().text, bench.json("/publickey")["PK"]), *of_curves]


@pytest.fixture
def ocmf() -> Any:
    return needs_module("pyocmf").OCMF


def test_pyocmf_verifies_what_is_signed_here_and_refuses_what_was_changed(ocmf: Any) -> None:
    for text, key in signed_here():
        with warnings.catch_warnings(action="ignore"):  # of fields that are mandatory
            assert ocmf.from_string(text).verify_signature(key)
            assert not ocmf.from_string(text.replace('"MS":"', '"MS":"X', 1)).verify_signature(key)


def test_pyocmf_judges_alike(ocmf: Any) -> None:
    """It too is made after the transparency software: where it looks, it finds an error where there is one here."""
    compared = 0
    for receipt in (*GOOD.values(), *(receipt for receipt, _ in CASES)):
        ours = {found.code for found in examine(receipt) if found.severity is Severity.ERROR}
        if ours & NOT_JUDGED or receipt.text in NOT_COMPARED:
            continue
        assert bool(ours) is pyocmf_refuses(ocmf, receipt.text), receipt.text
        compared += 1
    assert compared > 60


def pyocmf_refuses(ocmf: Any, text: str) -> bool:
    with warnings.catch_warnings(action="ignore"):
        try:
            return bool(ocmf.from_string(text).check_eichrecht(errors_only=True))
        except (needs_module("pyocmf.exceptions").PyOCMFError, TypeError):  # what it cannot read
            return True
