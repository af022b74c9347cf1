"""Texts that get signed: a tariff is always made fit, an id never altered."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iem_dcr.driver.texts import MAX_TARIFF_TEXT, check_identification, signable_tariff
from iem_dcr.errors import RequestError

any_text = st.text(st.characters(exclude_categories=()), max_size=300)
printable_ascii = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="|"))


@pytest.mark.parametrize(
    ("text", "signed"),
    [
        ("0,42 €/kWh", "0,42 EUR/kWh"),
        ("äöü ÄÖÜ ß ẞ", "aeoeue AeOeUe ss SS"),
        ("é è ê ç ñ å Å š", "e e e c n a A s"),
        ("ø Ø æ œ ł", "o O ae oe l"),
        ("a\u0308 e\u0301", "ae e"),
        ("day|night", "day/night"),
        ("sun \u2600 \U0001f600", "sun ? ?"),
        ("0,42\u00a0ct \u2013 Ω", "0,42?ct ? ?"),
        ("a ≠ b, a ≮ b", "a ? b, a ? b"),
        ("line\r\nend\t\x7f", "line  end  "),
        ("\ud800", "?"),
        ("", ""),
        ("plain ASCII: 0.42 EUR/kWh (~)", "plain ASCII: 0.42 EUR/kWh (~)"),
    ],
)
def test_what_becomes_of_a_tariff_text(text: str, signed: str) -> None:
    assert signable_tariff(text) == signed


def test_a_long_tariff_text_is_cut_as_it_is_signed() -> None:
    assert MAX_TARIFF_TEXT == 250
    assert signable_tariff("x" * 250) == "x" * 250
    assert signable_tariff("x" * 251) == "x" * 250
    assert signable_tariff("€" * 100) == ("EUR" * 100)[:250]
    assert signable_tariff("e\u0301" * 250) == "e" * 250


@given(printable_ascii.filter(bool))
@example("5b1c2f1e-7d44-4d0e-9d3c-0123456789ab")
def test_what_is_signable_stays_as_it_is(text: str) -> None:
    check_identification(text)
    assert signable_tariff(text) == text[:250]


@given(any_text)
@example("€" * 251)
@example("\u0344\u0301|")
def test_any_tariff_text_becomes_signable(text: str) -> None:
    signed = signable_tariff(text)
    assert signed.isascii()
    assert signed.isprintable()
    assert "|" not in signed
    assert len(signed) <= 250
    assert signable_tariff(signed) == signed


@pytest.mark.parametrize(
    "text", ["", "04|AB", "04\nAB", "04\x7fAB", "04ÄB", "\u202e04AB", "04AB\ud800", "€", "04AABBCCDDEEFF|"]
)
def test_an_id_that_cannot_be_signed_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        check_identification(text)
    reason = str(refused.value)
    assert "must be ASCII, not empty, and without | or control characters" in reason
    assert f"({len(text)} characters" in reason
    assert reason.isprintable()
    assert reason.isascii()
    assert "AABB" not in reason
