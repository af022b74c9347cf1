"""Print the coverage of lines and branches of each package, from the JSON report of coverage.

    python scripts/coverage_by_package.py .coverage.json

Files with decisions and without I/O (`PURE`) are listed separately. They need full coverage: otherwise the exit code is
1, and the missing lines and branches are printed.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

SOURCE: Final = "src/iem_dcr/"
PURE: Final = tuple(
    f"driver/{name}.py" for name in ("transitions", "receipt_matching", "receipt_memory", "ledger", "entry")
)
COUNTED: Final = ("covered_lines", "num_statements", "covered_branches", "num_branches")


def row(name: str, counts: Counter[str]) -> str:
    """Return a line of the table. A package without branches has 100 %."""
    lines, branches = (
        f"{100 * counts[covered] / counts[total] if counts[total] else 100:5.1f} %"
        for covered, total in (COUNTED[:2], COUNTED[2:])
    )
    return f"{name:<30} {lines:>8} of {counts['num_statements']:5}   {branches:>8} of {counts['num_branches']:5}"


def main(report: str) -> int:
    """Print the table. Return 1 if a pure file is not fully covered."""
    files: dict[str, Any] = json.loads(Path(report).read_text(encoding="utf-8"))["files"]
    packages: dict[str, Counter[str]] = {}
    missing = []
    for path, found in sorted(files.items()):
        name = path.removeprefix(SOURCE)
        counts = Counter({key: found["summary"][key] for key in COUNTED})
        for group in (name.rpartition("/")[0] or ".", "in all", *([name] if name in PURE else [])):
            packages[group] = packages.get(group, Counter()) + counts
        if name in PURE and (found["missing_lines"] or found["missing_branches"]):
            missing.append(f"{name}: lines {found['missing_lines']}, branches {found['missing_branches']}")
    print(f"{'':<30} {'lines':>8}            {'branches':>8}")
    for group in sorted(packages, key=lambda group: (group == "in all", group)):
        print(row(group, packages[group]))
    for each in missing:
        print(f"Not covered: {each}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
