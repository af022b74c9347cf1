"""Print the oldest versions of the dependencies that pyproject.toml allows, as constraints for pip.

`make test-oldest` runs the tests with them. pip chooses the versions of indirect dependencies and of linters.
"""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def oldest(requirement: Requirement) -> str:
    """Return the lowest version that a requirement allows, from its `>=` or `==`."""
    bounds = [each.version for each in requirement.specifier if each.operator in (">=", "==", "~=")]
    if len(bounds) != 1:
        raise SystemExit(f"{requirement} in pyproject.toml has no lower bound, or several")
    return bounds[0]


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for text in chain(project["dependencies"], *(extras[name] for name in extras if name not in ("dev", "release"))):
        requirement = Requirement(text)
        if requirement.name != project["name"]:
            print(f"{requirement.name}=={oldest(requirement)}")


if __name__ == "__main__":
    main()
