"""Types of the simulator's values: each reads what Python, a command line or JSON hands in, and refuses the rest."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import click
from cryptography.hazmat.primitives.asymmetric import ec

from iem_dcr.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import DataclassInstance

    Parameter = click.Parameter | None
    Context = click.Context | None

SECP256R1_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class Line(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """Text in one line; ``null`` and ``none`` are None where the option has a value of its own then."""

    name = "text"

    def __init__(self, *, optional: bool = False) -> None:
        self._optional = optional

    def convert(self, value: object, param: Parameter, ctx: Context) -> str | None:
        """Read it."""
        if self._optional and (value is None or str(value).lower() in ("null", "none")):
            return None
        if not isinstance(value, str) or not value.isprintable():
            self.fail(f"{printable(repr(value))} is not text in one line", param, ctx)
        return value


class Flag(click.types.BoolParamType):
    """True or false."""

    def convert(self, value: object, param: Parameter, ctx: Context) -> bool:
        """Read it."""
        return bool(super().convert(value if isinstance(value, bool) else str(value), param, ctx))


class Number(click.FloatRange):
    """A number within a range; None where it may be left open."""

    def __init__(self, least: float, most: float, *, optional: bool = False) -> None:
        super().__init__(least, most)
        self._optional = optional

    def convert(self, value: Any, param: Parameter, ctx: Context) -> float | None:  # type: ignore[override]  # noqa: ANN401  as click has it
        """Read it; ``nan`` is in no range."""
        if value is None and self._optional:
            return None
        if isinstance(value, bool) or math.isnan(number := float(super().convert(value, param, ctx))):
            self.fail(f"{printable(repr(value))} is not a number", param, ctx)
        return number


class Whole(click.IntRange):
    """A whole number within a range; None where it may be left open."""

    def __init__(self, least: int, most: int | None = None, *, optional: bool = False) -> None:
        super().__init__(least, most)
        self._optional = optional

    def convert(self, value: Any, param: Parameter, ctx: Context) -> int | None:  # type: ignore[override]  # noqa: ANN401  as click has it
        """Read it; a part of a number is not cut off."""
        if value is None and self._optional:
            return None
        if isinstance(value, (bool, float)):
            self.fail(f"{printable(repr(value))} is not a whole number", param, ctx)
        return int(super().convert(value, param, ctx))


class Several(click.ParamType):  # type: ignore[type-arg]  # as above
    """Some of a number of words, each at most once: a list, or text with commas."""

    name = "words"

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words

    def convert(self, value: object, param: Parameter, ctx: Context) -> tuple[str, ...]:
        """Read them."""
        if isinstance(value, str):
            value = [word.strip() for word in value.split(",") if word.strip()]
        if (
            not isinstance(value, (list, tuple))
            or any(word not in self._words for word in value)
            or len(set(value)) < len(value)
        ):
            self.fail(f"expects each of these at most once: {', '.join(self._words)}", param, ctx)
        return tuple(value)


class SecretKey(click.ParamType):  # type: ignore[type-arg]  # as above
    """A secp256r1 private key: its secret number (also as 0x…), a key object, or None for one that is generated."""

    name = "number"

    def convert(self, value: object, param: Parameter, ctx: Context) -> int | ec.EllipticCurvePrivateKey | None:
        """Read it."""
        if isinstance(value, ec.EllipticCurvePrivateKey):
            return value
        if value is None or (isinstance(value, str) and value.lower() in ("null", "none")):
            return None
        if isinstance(value, str):
            try:
                value = int(value, 0)
            except ValueError:
                self.fail(f"{printable(value, limit=60)!r} is not a whole number", param, ctx)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < SECP256R1_ORDER:
            self.fail("the secret number of a secp256r1 key is at least 1 and below the curve's order", param, ctx)
        return value


def checked(values: DataclassInstance) -> None:
    """Read and check every field of a new dataclass by the type in its metadata.

    Raises:
        ConfigError: with one line for each value that does not fit.
    """
    problems = []
    for each in fields(values):
        value = getattr(values, each.name)
        try:
            object.__setattr__(values, each.name, each.metadata["type"].convert(value, None, None))
        except click.BadParameter as error:
            problems.append(f"{each.name}: {printable(error.message)}")
        except (TypeError, ValueError, OverflowError):
            problems.append(f"{each.name}: {printable(repr(value))} is not {each.metadata['type'].name}")
    if problems:
        raise ConfigError(problems)


def number_in(name: str, value: object, least: float, most: float) -> float:
    """Check a number from outside.

    Raises:
        ConfigError: it is no number, or outside of the range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ConfigError([f"{name}: expects a number from {least:g} to {most:g}"])
    return float(value)
