"""What a charger has to carry: few imports, few dependencies, and no address of anybody's registry."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
NOT_ON_A_CHARGER = [
    "click", "rich", "sqlite3", "cryptography", "aiohttp", "jsonschema", "yaml", "iem_dcr.simulator",
    "iem_dcr.cli",
]  # fmt: skip
REGISTRIES = re.compile(
    r"https?://[^\s\"'<>)]*(pypi|pythonhosted|/simple\b|index[-]url|artifactory|nexus|devpi|conda)", re.IGNORECASE
)
WRITTEN_BY_US = {".py", ".toml", ".txt", ".md", ".yaml", ".yml", ".cfg", ".ini", ".json", ""}


def python(code: str, *options: str) -> str:
    """Run code in an interpreter of its own that finds the package in the source folder."""
    result = subprocess.run(
        [sys.executable, *options, "-c", code],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_driver_imports_only_what_it_needs() -> None:
    loaded = set(json.loads(python("import json, sys, iem_dcr.driver; print(json.dumps(sorted(sys.modules)))")))
    assert {"h11", "iem_dcr.device.client", "iem_dcr.ocmf"} <= loaded
    assert loaded.isdisjoint(NOT_ON_A_CHARGER)


@pytest.mark.parametrize("module", ["iem_dcr", "iem_dcr.config", "iem_dcr.powermeter", "iem_dcr.ocmf"])
def test_the_lower_layers_need_nothing_but_the_standard_library(module: str) -> None:
    assert python(f"import {module}; print({module}.__name__)", "-S") == f"{module}\n"


def test_the_version_needs_no_metadata() -> None:
    code = "import iem_dcr, sys; print(iem_dcr.__version__, 'importlib.metadata' in sys.modules)"
    version, has_metadata = python(code, "-S").split()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert has_metadata == "False"


def test_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "iem-dcr"
    assert sorted(project["dependencies"]) == ["cryptography>=42", "h11>=0.14"]
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").lstrip().startswith("Apache License")
    tools, demo, test, dev = (
        {re.split(r"[<>=!~]", name)[0] for name in project["optional-dependencies"][extra]}
        for extra in ("tools", "demo", "test", "dev")
    )
    assert tools >= {"click", "rich"}
    assert demo == {"iem-dcr[tools]", "amqtt"}
    assert "iem-dcr[demo]" in test
    assert "iem-dcr[test]" in dev


def test_the_constraints_are_plain_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.+!]*", pin) for pin in pins)
    names = [re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins]
    assert len(names) == len(set(names))
    assert {"aiohttp", "cryptography", "click", "rich", "pytest", "mypy", "ruff"} <= set(names)


def test_the_constraints_pin_all_that_is_installed_for_development() -> None:
    """A package that they leave out comes in another version tomorrow."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    waiting = [Requirement(text) for texts in (project["dependencies"], *extras.values()) for text in texts]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        needed = waiting.pop()
        name, wanted = canonicalize_name(needed.name), frozenset(needed.extras)
        if name == project["name"] or (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        with contextlib.suppress(metadata.PackageNotFoundError):
            of_it = [Requirement(text) for text in metadata.requires(name) or ()]
            waiting += [each for each in of_it if is_needed(each, wanted)]
    assert {name for name, _ in seen} - pins == set()


def is_needed(requirement: Requirement, extras: frozenset[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def test_no_registrys_address_is_anywhere() -> None:
    found = []
    for path in ROOT.rglob("*"):
        inside = path.relative_to(ROOT)
        if inside.parts[0] in (".git", ".venv", ".venv-oldest") or any(p.endswith("_cache") for p in inside.parts):
            continue
        if ".hypothesis" in inside.parts or path.suffix not in WRITTEN_BY_US or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{inside}: {match.group()}" for match in REGISTRIES.finditer(text)]
    assert found == []


def test_a_wheel_has_everything_of_the_package(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    ours = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert packed == {name for name in ours if "__pycache__" not in name}
    assert {"iem_dcr/web/static/page.js", "iem_dcr/web/templates/meter.html"} <= packed
