"""The table of findings: what a finding takes from it, and which findings need no action."""

from __future__ import annotations

import pytest

from iem_dcr.ocmf.rules import FINDINGS, Finding, Report, Severity, finding


def test_finding_has_the_severity_of_its_code_and_concerns_no_field_unless_one_is_given() -> None:
    assert finding("fiscal", "a text") == Finding("fiscal", Severity.INFO, None, "", "a text")
    found = finding("energy-flag", "a text", field="EF", reading=1, receipt=2)
    assert found == Finding("energy-flag", Severity.ERROR, 1, "EF", "a text", 2)
    assert [severity.value for severity in Severity] == ["error", "warning", "info"]
    assert FINDINGS["fiscal"].differs == ""


def test_report_has_its_findings_in_order_and_a_warning_stays_a_warning() -> None:
    report = Report()
    report.add("fiscal", "a text")
    report.add("register-unknown", "another", "RI", of=1)
    assert report == [
        Finding("fiscal", Severity.INFO, None, "", "a text"),
        Finding("register-unknown", Severity.WARNING, None, "RI", "another", 1),
    ]


@pytest.mark.parametrize(
    ("code", "severity", "asks_for_nothing"),
    [
        ("fiscal", Severity.INFO, True),
        ("register-unknown", Severity.WARNING, False),
        ("energy-flag", Severity.ERROR, False),
        ("energy-flag", Severity.INFO, False),
    ],
)
def test_only_an_explanation_without_an_action_asks_for_nothing(
    code: str, severity: Severity, *, asks_for_nothing: bool
) -> None:
    assert Finding(code, severity, None, "", "").asks_for_nothing is asks_for_nothing
