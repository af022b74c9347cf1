"""The Python and the environment of an installed EVerest module."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from iem_dcr import __version__
from iem_dcr.errors import InstallationError
from iem_dcr.everest.check import check, python_of_everestpy
from iem_dcr.everest.install import REQUIREMENTS, install
from tests.support.bench import CI
from tests.support.command_line import Simulator, run
from tests.support.everest_bench import DOUBLE, EverestBench
from tests.support.everest_prefix import (
    FRAMEWORK,
    MODULE,
    RUNNING,
    contents,
    everest_at,
    place_of,
    stand_in,
)
from tests.test_everest_module import assert_ended_well, start, stop

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ["h11", "cryptography", "cffi"]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return everest_at(tmp_path / "everest")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix with the module and its environment in it; tests leave it as it is."""
    prefix = everest_at(tmp_path_factory.mktemp("whole") / "my everest")
    install(prefix)
    return prefix


# --- which Python ---


def test_another_python_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = everest_at(tmp_path / "everest", "3.28")
    # Neither an interpreter of another version is one, nor what cannot be run.
    stand_in(tmp_path / "other", "3.27", "exit 0")
    (tmp_path / "other" / "python3.27").rename(tmp_path / "other" / "python3.28")
    stand_in(tmp_path / "closed", "3.28", "exit 0")
    (tmp_path / "closed" / "python3.28").chmod(0o644)
    before = contents(prefix)
    trouble = (
        f"EVerest's everestpy is built for Python 3.28, and this is Python {RUNNING}: run iem-dcr with Python 3.28; "
        "or have it on PATH, and give --wheels a folder with wheels of cryptography, h11 and what they need for it (it "
        "takes 3.11 or newer). With --no-venv only the folder is copied"
    )
    for path, wheels in (("none", None), ("none", tmp_path), ("other", tmp_path), ("closed", tmp_path)):
        monkeypatch.setenv("PATH", str(tmp_path / path))
        with pytest.raises(InstallationError, match=re.escape(trouble)):
            install(prefix, wheels=wheels)
    assert contents(prefix) == before
    assert install(prefix, venv=False).everestpy_python == "3.28"


def test_interpreter_that_hangs_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iem_dcr.everest.check.ANSWER_TIMEOUT_S", 1.0)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text(f"#!/bin/sh\nexec {shutil.which('sleep')} 1000\n", encoding="utf-8")
    (tmp_path / "bin/python3").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    prefix = everest_at(tmp_path / "everest", "3.28")
    with pytest.raises(InstallationError, match=r"run iem-dcr with Python 3\.28; or have it on PATH"):
        install(prefix, wheels=tmp_path)
    install(prefix, venv=False)
    findings = check(prefix)
    assert findings.problems == ["module.py does not start: no answer within 1 s"]
    assert not findings.starts


@pytest.mark.parametrize(
    ("versions", "taken"),
    [([], RUNNING), (["3.9"], "3.9"), (["3.9", "3.98", "3.12"], "3.98"), (["3.98", RUNNING], RUNNING)],
)
def test_which_python_everestpy_is_built_for(tmp_path: Path, versions: list[str], taken: str) -> None:
    prefix = everest_at(tmp_path, None)
    for version in versions:
        (prefix / f"lib/everest/everestpy/a.cpython-{version.replace('.', '')}-aarch64-linux-gnu.so").touch()
    (prefix / "lib/everest/everestpy/b.cpython-396-x86_64-linux-gnu.so.bak").touch()
    assert python_of_everestpy(prefix) == taken


def test_everestpy_is_asked_for_its_version_if_its_name_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As EVerest's CMake installs it. The interpreter beside it is the only one that can import it."""
    refusal = "import sys\nif 'beside' not in sys.argv:\n    raise ImportError('Python version mismatch')\n"
    prefix = everest_at(tmp_path / "everest", None, refusal + FRAMEWORK)
    monkeypatch.setenv("PATH", "/nowhere")
    assert python_of_everestpy(prefix) is None
    assert "  everestpy  for an unknown Python\n" in run("everest", "check", str(prefix)).out
    stand_in(prefix / "bin", "3", f'exec {sys.executable} "$@" beside')
    (prefix / "bin/python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@" beside\n', encoding="utf-8")
    assert python_of_everestpy(prefix) == RUNNING
    assert check(prefix).everestpy_python == RUNNING


def test_the_requirements_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(project["dependencies"]) == sorted(REQUIREMENTS)
    assert project["requires-python"] == ">=3.11"


# --- the environment ---


def test_the_environment_is_whole_and_its_own(whole: Path) -> None:
    folder = place_of(whole)
    code = (
        f"import {', '.join(NEEDED)}, cryptography.hazmat.primitives.asymmetric.ec, importlib.metadata\n"
        "import iem_dcr.driver, sys\n"
        "files = [module.__file__ for module in list(sys.modules.values()) if getattr(module, '__file__', None)]\n"
        "print(iem_dcr.__version__, importlib.metadata.version('h11'))\n"
        "print(*[file for file in files if '-packages' in file], sep='\\n')"
    )
    done = subprocess.run(
        [folder / ".venv/bin/python3", "-I", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    versions, *files = done.stdout.splitlines()
    assert versions == f"{__version__} {distribution('h11').version}"
    assert len(files) > 40
    assert all(file.startswith(f"{folder}/.venv/") for file in files)
    site = next(folder.glob(".venv/lib/python3.*/site-packages"))
    assert list((site / "iem_dcr/driver/__pycache__").glob("driver.*.pyc"))
    assert not (site / "click").exists()
    assert not (site / "pip").exists()
    assert not list(site.glob("*.pth"))
    assert {path.name for path in site.glob("*.dist-info")} == {
        f"{name}-{distribution(name).version}.dist-info" for name in NEEDED
    }


def test_a_check_changes_nothing_and_no_path_is_that_of_the_hidden_folder(whole: Path) -> None:
    folder = place_of(whole)
    before = contents(folder)
    assert check(whole).starts
    assert contents(folder) == before
    assert os.listdir(folder.parent) == [MODULE]  # noqa: PTH208  hidden ones too, by name
    for path in (folder / ".venv/pyvenv.cfg", folder / ".venv/bin/activate"):
        assert f".{MODULE}." not in path.read_text(encoding="utf-8")
    assert f"{folder}/.venv" in (folder / ".venv/bin/activate").read_text(encoding="utf-8")


def test_the_installed_module_gives_a_receipt(tmp_path: Path) -> None:
    """With the double in the place of everestpy."""
    prefix = tmp_path / "everest"
    shutil.copytree(DOUBLE, prefix / "lib/everest/everestpy", ignore=shutil.ignore_patterns("__pycache__"))
    folder = install(prefix).folder
    with Simulator() as meter:
        host, _, port = meter.address.rpartition(":")
        config = {"ip_address": host, "port_http": int(port), "CI": CI, "journal_path": str(tmp_path / "receipts.db")}
        python = folder / ".venv/bin/python3"
        with EverestBench(folder / "module.py", config, interpreter=python) as everest:
            everest.ready()
            assert everest.call("start_transaction", start()) == {"status": "OK"}
            assert everest.call("stop_transaction", stop())["status"] == "OK"
            assert_ended_well(everest)


def wheels_of(folder: Path, names: list[str]) -> Path:
    """Make wheels again of what is installed here."""
    folder.mkdir()
    for part in map(distribution, names):
        tag = re.search(r"^Tag: (.*)$", part.read_text("WHEEL") or "", re.MULTILINE)
        assert tag is not None
        name = part.name.replace("-", "_")
        with zipfile.ZipFile(folder / f"{name}-{part.version}-{tag[1]}.whl", "w") as wheel:
            for file in part.files or ():
                if ".." not in file.parts and file.suffix != ".pyc":
                    wheel.write(str(file.locate()), str(file))
    return folder


def test_an_environment_is_made_of_wheels(prefix: Path, tmp_path: Path) -> None:
    wheels = wheels_of(tmp_path / "wheels", [*NEEDED, "pycparser"])
    installed = install(prefix, wheels=wheels)
    assert (installed.environment or "").endswith(f"cffi {distribution('cffi').version}, from {wheels}")
    assert check(prefix).problems == []

    before = contents(place_of(prefix))
    next(wheels.glob("h11*")).unlink()
    with pytest.raises(InstallationError) as failed:
        install(prefix, wheels=wheels, force=True)
    assert str(failed.value).startswith(f"the wheels in {wheels} are not those of cryptography, h11 and what ")
    assert "No matching distribution found for h11>=0.14" in str(failed.value)
    assert contents(place_of(prefix)) == before


def test_python_without_lists_of_files(prefix: Path, tmp_path: Path) -> None:
    """As where a distribution's packages come without their lists of files."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "h11").symlink_to(str(distribution("h11").locate_file("h11")))
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from pathlib import Path\n"
        "from iem_dcr.everest.install import install; install(Path(sys.argv[3]))"
    )
    before = contents(prefix)
    command = [sys.executable, "-I", "-S", "-c", code, str(ROOT / "src"), str(packages), str(prefix)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the files of cryptography cannot be told from others in this Python's installation" in done.stderr
    assert "give --wheels a folder with wheels of cryptography, h11 and what they need" in done.stderr
    assert contents(prefix) == before
