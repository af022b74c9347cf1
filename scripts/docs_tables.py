"""Writes the parts of the documentation that are generated from tables in the code.

    docs/settings.md      every setting of a meter                 from iem_dcr.config.SETTINGS
    docs/receipts.md      every finding about a receipt            from iem_dcr.ocmf.rules.FINDINGS
    docs/architecture.md  the states of a transaction, as diagram  from iem_dcr.driver.transitions.TABLE

Each part is between the comments ``<!-- NAME -->`` and ``<!-- end of NAME -->``. A test compares the output of `pages`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from iem_dcr.config import SETTINGS, Setting
from iem_dcr.driver.transitions import TABLE
from iem_dcr.ocmf.rules import FINDINGS, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DOCS = Path(__file__).resolve().parents[1] / "docs"


def table(*rows: Iterable[str]) -> str:
    """Return rows as a Markdown table. The first row is the head."""
    head, *rest = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    lines = [f"| {' | '.join(row)} |" for row in (head, *rest)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def settings() -> str:
    return table(
        ("key", "default", "allowed", "what it does"),
        *((f"`{one.key}`", f"`{_default(one)}`", _allowed(one), one.description) for one in SETTINGS),
    )


def _default(setting: Setting) -> str:
    value = setting.default
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _allowed(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(setting.choices)
    if setting.minimum is not None:
        return f"{setting.minimum} to {setting.maximum}"
    return "true, false" if setting.kind is bool else "text"


def findings() -> str:
    """Return the table of finding codes, grouped by the action that they need."""
    by_action: dict[str, dict[Severity, list[str]]] = {}
    for code, kind in FINDINGS.items():
        of_action = by_action.setdefault(kind.to_do, {severity: [] for severity in Severity})
        of_action[kind.severity].append(f"`{code}`")
    return table(
        ("what to do", *(severity.value for severity in Severity)),
        *((to_do, *(", ".join(codes) for codes in found.values())) for to_do, found in by_action.items()),
    )


def diagram() -> str:
    arrows = [
        f"    {state.name} --> {to.name}: {event.name.lower().replace('_', ' ')}"
        for state, row in TABLE.items()
        for event, to in row.items()
    ]
    return "\n".join(["```mermaid", "stateDiagram-v2", *arrows, "```"])


PARTS = {
    "settings.md": {"settings": settings},
    "receipts.md": {"findings": findings},
    "architecture.md": {"states": diagram},
}


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each page with its expected text."""
    for name, parts in PARTS.items():
        text = (DOCS / name).read_text("utf-8")
        for part, make in parts.items():
            begin, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->"
            between = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
            if between.search(text) is None:
                raise ValueError(f"{name} has no place for {part}")
            made = make() + "\n"
            text = between.sub(lambda _, made=made: made, text)  # type: ignore[misc]
        yield DOCS / name, text


if __name__ == "__main__":
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
        print(path.name)
