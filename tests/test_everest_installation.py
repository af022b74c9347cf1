"""The EVerest module among a charger's modules: put there whole or not at all, and nothing of others touched."""

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
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import iem_dcr.everest
from iem_dcr import __version__
from iem_dcr.errors import ConfigError
from iem_dcr.everest import environment, installation
from iem_dcr.everest.environment import OLDEST_PYTHON, REQUIREMENTS, InstallationError
from iem_dcr.everest.installation import check, install, module_folder, uninstall
from tests.support.everest_prefix import MODULE, RUNNING, contents, everest_at, place_of, put_vendors

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(iem_dcr.everest.__file__).parent / MODULE
NEEDED = ["h11", "cryptography", "cffi"]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return everest_at(tmp_path / "everest")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix with the module and its environment in it; tests leave it as it is."""
    prefix = everest_at(tmp_path_factory.mktemp("whole") / "my everest")
    installed = install(prefix)
    assert installed.environment is not None
    assert installed.environment.copied
    assert installed.environment.python == RUNNING
    assert installed.everestpy_python == RUNNING
    assert installed.replaced is None
    assert installed.folder == place_of(prefix)
    return prefix


def stand_in(folder: Path, version: str, otherwise: str) -> None:
    """Write an interpreter that says it is of a version, and does one thing whatever else it is asked."""
    folder.mkdir(exist_ok=True)
    path = folder / f"python{version}"
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *version_info*) echo {version};; *) {otherwise};; esac\n', encoding="utf-8"
    )
    path.chmod(0o755)


# --- where ---


@pytest.mark.parametrize("name", [MODULE, "_", "a", "Meter_2"])
def test_names_of_modules(prefix: Path, name: str) -> None:
    assert module_folder(prefix, name) == prefix / "libexec/everest/modules" / name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/tmp/x", "a.b", "a-b", "1a", "a b", "a\n", "\n", "ä", "a\x00", "-a", "٣", "\udcff"],  # noqa: S108  no path
)
@pytest.mark.parametrize("act", [install, uninstall, check])
def test_hostile_names(prefix: Path, name: str, act: Callable[..., object]) -> None:
    before = contents(prefix)
    with pytest.raises(ConfigError, match=r"cannot be a module's name: expected letters, digits and _"):
        act(prefix, name)
    assert contents(prefix) == before


@given(st.text(st.characters(exclude_categories=()), max_size=20) | st.from_regex(r"[a-zA-Z_][\w.-]*"))
def test_a_name_stays_in_the_modules_folder(whole: Path, name: str) -> None:
    said = ""
    try:
        folder = module_folder(whole, name)
    except ConfigError as error:
        said = str(error)
    else:
        assert (folder.parent, folder.name) == (place_of(whole).parent, name)
        assert name.isidentifier()
        assert name.isascii()
    assert said.isprintable()


@pytest.mark.parametrize("sign", ["libexec/everest/modules", "lib/everest", "share/everest", "bin/manager"])
def test_what_looks_like_everest(tmp_path: Path, sign: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no EVerest at .*: expected a folder with libexec/everest/modules"):
        install(tmp_path, venv=False, force=True)
    assert contents(tmp_path) == {}
    (tmp_path / sign).mkdir(parents=True)
    assert install(tmp_path, venv=False).folder == place_of(tmp_path)


def test_a_relative_prefix(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prefix.parent)
    assert install(Path("everest"), venv=False).folder == place_of(prefix)


# --- the folder ---


def test_the_folder_as_it_is(prefix: Path) -> None:
    installed = install(prefix, "Meter", venv=False)
    assert (installed.environment, installed.replaced) == (None, None)
    there = contents(installed.folder)
    marker = there.pop(".iem-dcr")
    assert isinstance(marker, bytes)
    assert f'"version": "{__version__}"'.encode() in marker
    assert there == {name: text for name, text in contents(SOURCE).items() if "__pycache__" not in name}
    assert {"manifest.yaml", "module.py"} <= set(there)
    assert os.listdir(installed.folder.parent) == ["Meter"]  # noqa: PTH208  hidden ones too, by name


def no_manifest(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "module.py").touch()


def a_file(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("x", encoding="utf-8")


def a_dead_link(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (lambda folder: put_vendors(folder.parents[3]), "a module that says of itself: Driver in C\\+\\+ for the IEM"),
        (no_manifest, "a folder without manifest.yaml"),
        (a_file, "no folder"),
        (a_dead_link, "no folder"),
    ],
    ids=["vendor's", "no manifest", "file", "dead link"],
)
def test_what_is_there_stays_without_force(prefix: Path, put: Callable[[Path], object], said: str) -> None:
    folder = place_of(prefix)
    put(folder)
    before = contents(prefix)
    with pytest.raises(InstallationError, match=f"is there already: {said}.* With --force it is replaced"):
        install(prefix)
    with pytest.raises(InstallationError, match=f"is not this module but {said}.*: nothing was removed"):
        uninstall(prefix)
    findings = check(prefix)
    assert not findings.is_this_module
    assert not findings.starts
    assert re.search(f"this is not this module but {said}", " ".join(findings.problems))
    assert contents(prefix) == before

    installed = install(prefix, venv=False, force=True)
    assert re.match(said, installed.replaced or "")
    assert {path.name for path in folder.parent.iterdir()} == {MODULE}
    assert {"module.py", "manifest.yaml", ".iem-dcr"} <= set(contents(folder))
    assert MODULE not in contents(folder)


def test_it_is_not_installed_over_itself(prefix: Path) -> None:
    install(prefix, venv=False)
    with pytest.raises(InstallationError, match=f"is there already: this module, version {__version__}"):
        install(prefix, venv=False)
    assert install(prefix, venv=False, force=True).replaced == f"this module, version {__version__}"


def test_force_on_a_link_leaves_alone_where_it_leads(prefix: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(SOURCE, elsewhere)
    place_of(prefix).parent.mkdir(parents=True)
    place_of(prefix).symlink_to(elsewhere)
    before = contents(elsewhere)
    install(prefix, venv=False, force=True)
    assert not place_of(prefix).is_symlink()
    assert contents(elsewhere) == before


# --- failures ---


def test_no_folder_where_the_modules_belong(prefix: Path) -> None:
    (prefix / "libexec").write_text("in the way", encoding="utf-8")
    before = contents(prefix)
    with pytest.raises(InstallationError, match=rf"{MODULE} was not installed: .*libexec.*: Not a directory"):
        install(prefix, venv=False)
    assert contents(prefix) == before


def test_no_permission(prefix: Path) -> None:
    install(prefix, venv=False)
    place_of(prefix).parent.chmod(0o555)
    try:
        if os.access(place_of(prefix).parent, os.W_OK):
            pytest.skip("root may write anywhere")
        for act in (lambda: install(prefix, "Other", venv=False), lambda: uninstall(prefix)):
            with pytest.raises(InstallationError, match="Permission denied"):
                act()
        assert os.listdir(place_of(prefix).parent) == [MODULE]  # noqa: PTH208  as above
    finally:
        place_of(prefix).parent.chmod(0o755)


def test_what_was_there_is_put_back(tmp_path: Path) -> None:
    folder = put_vendors(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(FileNotFoundError):
        installation._put_in_place(tmp_path / "never made", folder)
    assert contents(tmp_path) == before


def test_a_failure_half_way_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "bin", "3.99", "echo 'Traceback'; echo 'No module named venv' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    fresh, used = everest_at(tmp_path / "fresh", "3.99"), everest_at(tmp_path / "used", "3.99")
    put_vendors(used)
    before = contents(tmp_path)
    for prefix in (fresh, used):
        with pytest.raises(InstallationError, match="no environment can be made: No module named venv"):
            install(prefix, force=True)
    assert contents(tmp_path) == before


def test_a_full_disk(prefix: Path) -> None:
    """A limit to the size of files stands in for it: copying fails at the first big one."""
    put_vendors(prefix)
    before = contents(prefix)
    command = [sys.executable, "-m", "iem_dcr.cli.main", "everest", "install", "--force", str(prefix)]
    limited = ["sh", "-c", 'ulimit -f 1024; exec "$@"', "sh", *command]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(rf"Error: {MODULE} was not installed: /\S+\.so: File too large\n", done.stderr)
    assert contents(prefix) == before


# --- which Python ---


def test_another_python_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = everest_at(tmp_path / "everest", "3.98")
    # A launcher that knows no such version is none, nor is what cannot be run, nor an interpreter of another version.
    stand_in(tmp_path / "one", "3.98", "exit 127")
    (tmp_path / "one" / "python3.98").write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    stand_in(tmp_path / "two", "3.97", "exit 0")
    (tmp_path / "two" / "python3.97").rename(tmp_path / "two" / "python3.98")
    stand_in(tmp_path / "three", "3.98", "exit 0")
    (tmp_path / "three" / "python3.98").chmod(0o644)
    monkeypatch.setenv("PATH", os.pathsep.join(str(tmp_path / name) for name in ("none", "one", "two", "three")))
    before = contents(prefix)
    with pytest.raises(InstallationError) as failed:
        install(prefix)
    assert str(failed.value) == (
        f"EVerest's everestpy is built for Python 3.98, this is Python {RUNNING}, and there is no python3.98 on PATH: "
        "install it, or run iem-dcr with it. With --no-venv only the folder is copied"
    )
    assert contents(prefix) == before
    installed = install(prefix, venv=False)
    assert installed.everestpy_python == "3.98"


def test_a_python_that_is_too_old(tmp_path: Path) -> None:
    prefix = everest_at(tmp_path, "3.10")
    with pytest.raises(InstallationError, match=r"built for Python 3\.10; this module needs 3\.11 or newer"):
        install(prefix)


@pytest.mark.parametrize(
    ("versions", "taken"),
    [
        ([], None),
        (["3.9"], (3, 9)),
        (["3.9", "3.98", "3.12"], (3, 98)),
        (["3.98", RUNNING], sys.version_info[:2]),
    ],
)
def test_which_python_everestpy_is_built_for(
    tmp_path: Path, versions: list[str], taken: tuple[int, int] | None
) -> None:
    prefix = everest_at(tmp_path, None)
    for version in versions:
        (prefix / f"lib/everest/everestpy/a.cpython-{version.replace('.', '')}-aarch64-linux-gnu.so").touch()
    (prefix / "lib/everest/everestpy/b.cpython-396-x86_64-linux-gnu.so.bak").touch()
    assert installation._built_for(prefix) == taken


def test_the_requirements_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(project["dependencies"]) == sorted(f"{name}>={version}" for name, version in REQUIREMENTS.items())
    assert project["requires-python"] == ">=" + ".".join(map(str, OLDEST_PYTHON))


# --- the environment ---


def test_the_environment_is_whole_and_its_own(whole: Path) -> None:
    folder = place_of(whole)
    code = (
        f"import {', '.join(NEEDED)}, cryptography.hazmat.primitives.asymmetric.ec, importlib.metadata\n"
        "import iem_dcr.driver, sys\n"
        "files = [module.__file__ for module in list(sys.modules.values()) if getattr(module, '__file__', None)]\n"
        "print(iem_dcr.__version__, importlib.metadata.version('iem-dcr'), importlib.metadata.version('h11'))\n"
        "print(*[file for file in files if '-packages' in file], sep='\\n')"
    )
    done = subprocess.run(
        [folder / ".venv/bin/python3", "-I", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    versions, *files = done.stdout.splitlines()
    assert versions == f"{__version__} {__version__} {distribution('h11').version}"
    assert len(files) > 40
    assert all(file.startswith(f"{folder}/.venv/") for file in files)
    site = next(folder.glob(".venv/lib/python3.*/site-packages"))
    assert list((site / "iem_dcr/driver/__pycache__").glob("driver.*.pyc"))
    assert not (site / "click").exists()
    assert not (site / "pip").exists()
    assert not list(site.glob("*.pth"))
    assert {path.name for path in site.glob("*.dist-info")} >= {
        f"{name}-{distribution(name).version}.dist-info" for name in REQUIREMENTS
    }
    recorded = (site / f"iem_dcr-{__version__}.dist-info/RECORD").read_text(encoding="utf-8").splitlines()
    assert all((site / line.split(",")[0]).is_file() for line in recorded)
    assert "iem_dcr/everest/module.py,," in recorded


def test_the_environment_names_its_own_place(whole: Path) -> None:
    folder = place_of(whole)
    assert os.listdir(folder.parent) == [MODULE]  # noqa: PTH208  as above
    for path in (folder / ".venv/pyvenv.cfg", folder / ".venv/bin/activate"):
        assert not re.search(rf"\.{MODULE}-", path.read_text(encoding="utf-8"))
    assert f"{folder}/.venv" in (folder / ".venv/bin/activate").read_text(encoding="utf-8")


def test_all_is_well(whole: Path) -> None:
    before = contents(place_of(whole))
    findings = check(whole)
    assert findings.problems == ()
    assert findings.found == f"this module, version {__version__}"
    assert findings.is_this_module
    assert findings.manifest_equal
    assert findings.everestpy
    assert findings.starts
    assert findings.version == __version__
    assert findings.python == findings.everestpy_python == RUNNING
    assert findings.interpreter == f"{place_of(whole)}/.venv/bin/python3"
    assert contents(place_of(whole)) == before


def test_pip_brings_what_cannot_be_copied(prefix: Path, tmp_path: Path) -> None:
    """An interpreter that has nothing installed, and a folder of wheels in place of an index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for part in environment._installed_parts():
        tag = re.search(r"^Tag: (.*)$", part.read_text("WHEEL") or "", re.MULTILINE)
        assert tag is not None
        name = part.name.replace("-", "_")
        with zipfile.ZipFile(wheels / f"{name}-{part.version}-{tag[1]}.whl", "w") as wheel:
            for file in part.files or ():
                if ".." not in file.parts and file.suffix != ".pyc":
                    wheel.write(str(file.locate()), str(file))
    code = (
        "import logging, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from iem_dcr.everest.installation import install; print(install(Path(sys.argv[2])).environment)"
    )
    source = Path(iem_dcr.everest.__file__).parents[2]
    variables = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, "-I", "-S", "-c", code, str(source), str(prefix)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "copied=False" in done.stdout
    assert "is not installed for this Python; pip is asked for cryptography and h11" in done.stderr
    assert check(prefix).problems == ()

    before = contents(place_of(prefix))
    shutil.rmtree(wheels)
    code = code.replace("Path(sys.argv[2])", "Path(sys.argv[2]), force=True")
    command = [sys.executable, "-I", "-S", "-c", code, str(source), str(prefix)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cryptography and h11 could not be installed: see that pip finds them" in done.stderr
    assert "No matching distribution found for cryptography>=42" in done.stderr
    assert contents(place_of(prefix)) == before
