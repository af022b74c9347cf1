"""A folder that looks as if EVerest were installed in it, and what is in a folder."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MODULE = "IsabellenhuetteIemDcr"
RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
FRAMEWORK = "Module = RuntimeSession = log = None\n"
"""What module.py imports of everestpy; enough to import, not to run."""
EVERESTS_OWN = "try:\n    from .everestpy import *\nexcept ImportError:\n    from everestpy import *\n"
"""What everestpy itself consists of beside its shared object."""
VENDORS = "description: >-\n  Driver in C++ for the IEM-DCR\nprovides: {}\n"


def everest_at(prefix: Path, built_for: str | None = RUNNING, framework: str = FRAMEWORK) -> Path:
    """Make a prefix whose everestpy is built for a version of Python; None: the files do not say for which."""
    everestpy = prefix / "lib/everest/everestpy/everest/framework"
    everestpy.mkdir(parents=True)
    (everestpy / "__init__.py").write_text(framework, encoding="utf-8")
    tag = "" if built_for is None else f".cpython-{built_for.replace('.', '')}-x86_64-linux-gnu"
    (everestpy / f"everestpy{tag}.so").touch()
    return prefix


def place_of(prefix: Path, name: str = MODULE) -> Path:
    """Where a module of that name belongs."""
    return prefix / "libexec/everest/modules" / name


def put_vendors(prefix: Path, name: str = MODULE) -> Path:
    """Put another module of that name there."""
    folder = place_of(prefix, name)
    folder.mkdir(parents=True)
    (folder / "manifest.yaml").write_text(VENDORS, encoding="utf-8")
    (folder / name).write_bytes(b"\x7fELF")
    return folder


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """All below a folder: what is in the files, where the links lead."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)  # noqa: PTH115  as it is written, not as a path
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def stand_in(folder: Path, version: str, otherwise: str) -> None:
    """Write an interpreter that says it is of a version, and does one thing whatever else it is asked."""
    folder.mkdir(exist_ok=True)
    path = folder / f"python{version}"
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *version_info*) echo {version};; *) {otherwise};; esac\n', encoding="utf-8"
    )
    path.chmod(0o755)
