"""iem-dcr everest: what it shows of an installation, what it removes, and its exit status."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import iem_dcr.everest
from iem_dcr import __version__
from tests.support.command_line import Done, run, run_process
from tests.support.everest_prefix import MODULE, RUNNING, contents, everest_at, place_of

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(iem_dcr.everest.__file__).parent / MODULE
BIN = str(Path(sys.executable).parent)
"""Where there is a python3 that has this package."""


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return everest_at(tmp_path / "my everest")


def checked(prefix: Path, *options: str, path: str = BIN) -> tuple[Done, dict[str, Any]]:
    """Check as JSON, with a PATH."""
    done = run("everest", "check", str(prefix), "--json", *options, PATH=path)
    (findings,) = done.events
    assert done.err == ""
    assert done.status == (1 if findings["problems"] else 0)
    return done, findings


def install(prefix: Path, *options: str) -> Done:
    """Install, and leave the folder for receipts of this host alone."""
    return run("everest", "install", str(prefix), "--state-folder", str(prefix.with_name("state")), *options)


def install_folder(prefix: Path, *options: str) -> Path:
    done = install(prefix, "--no-venv", *options)
    assert (done.status, done.err) == (0, "")
    return place_of(prefix)


def test_from_installing_to_removing(prefix: Path) -> None:
    folder = place_of(prefix)
    done = install(prefix)
    assert (done.status, done.err) == (0, "")
    first, environment, everestpy, starts, receipts = done.out.splitlines()
    assert first == f"Installed version {__version__} in {folder}"
    assert environment.startswith(f"  Environment  Python {RUNNING}, cryptography ")
    assert environment.endswith(", copied from here")
    assert everestpy == f"  everestpy    built for Python {RUNNING}"
    assert starts == "  Starts       yes"
    state = prefix.with_name("state")
    assert receipts.startswith(
        f"  Receipts     {state}, for user " if os.geteuid() == 0 else f"  Receipts     only root makes {state}"
    )

    # As on a charger: no python3 but that of the environment, and none of this process's variables.
    done = run_process("everest", "check", str(prefix), PATH="/nowhere", PYTHONPATH="/nowhere")
    assert (done.status, done.err) == (0, "")
    assert done.out == (
        f"{folder}\n"
        "  Module     this module\n"
        f"  Package    version {__version__}\n"
        f"  Manifest   that of version {__version__}\n"
        f"  Python     {RUNNING}, {folder}/.venv/bin/python3\n"
        f"  everestpy  for Python {RUNNING}\n"
        "  Starts     yes\n"
    )

    # The interpreter it was made from is gone, as after an update of the system.
    (folder / ".venv/bin/python3").unlink()
    (folder / ".venv/bin/python3").symlink_to("/nowhere/python3")
    _, findings = checked(prefix)
    assert findings["problems"] == [
        f"module.py does not start: {folder}/.venv/bin/python3 leads to no interpreter: install again with --force"
    ]
    assert findings["interpreter"] == f"{folder}/.venv/bin/python3"
    assert not findings["starts"]

    done = run("everest", "uninstall", str(prefix))
    assert (done.status, done.out, done.err) == (0, f"Removed {folder}\n", "")
    assert list(folder.parent.iterdir()) == []


def test_without_an_environment(prefix: Path) -> None:
    done = install(prefix, "--no-venv", "--name", "Meter")
    assert (done.status, done.err) == (0, "")
    assert "  Environment  none; the python3 that EVerest starts needs iem-dcr installed\n" in done.out
    assert done.out.endswith(f"Check whether it starts: iem-dcr everest check '{prefix}' --name Meter\n")
    assert not (place_of(prefix, "Meter") / ".venv").exists()

    _, findings = checked(prefix, "--name", "Meter")
    assert findings == {
        "folder": str(place_of(prefix, "Meter")), "found": "this module", "is_this_module": True,
        "version": __version__, "manifest_equal": True, "interpreter": f"{BIN}/python3", "python": RUNNING,
        "everestpy": True, "everestpy_python": RUNNING, "starts": True, "problems": [],
    }  # fmt: skip
    _, findings = checked(prefix, "--name", "Meter", path="/nowhere")
    assert findings["problems"] == ["module.py does not start: there is no python3 on PATH"]
    assert (findings["starts"], findings["interpreter"], findings["python"]) == (False, None, None)


def framework(folder: Path) -> Path:
    """The file that EVerest's Python framework consists of here."""
    return folder.parents[3] / "lib/everest/everestpy/everest/framework/__init__.py"


def rename_everestpy(folder: Path) -> None:
    (everestpy,) = framework(folder).parent.glob("*.so")
    everestpy.rename(everestpy.with_name("everestpy.cpython-398-aarch64-linux-gnu.so"))


NOT_STARTED = "module.py does not start: "
NO_EVERESTPY = "there is no everestpy in PREFIX/lib/everest/everestpy"
AGAIN = "install again with --force"
PROBLEMS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a framework that fails": (
        lambda folder: framework(folder).write_text("print('noise')\nraise ImportError('fmt.so:\x1b cannot open')\n"),
        [f"{NOT_STARTED}ImportError: fmt.so:  cannot open"],
    ),
    "a framework that crashes": (
        lambda folder: framework(folder).write_text("import os\nos.abort()\n"),
        [f"{NOT_STARTED}ended by SIGABRT"],
    ),
    "no everestpy": (
        lambda folder: shutil.rmtree(folder.parents[3] / "lib/everest/everestpy"),
        [NO_EVERESTPY, f"{NOT_STARTED}ModuleNotFoundError: No module named 'everest'"],
    ),
    "another Python": (rename_everestpy, [f"everestpy is built for Python 3.98, and this starts Python {RUNNING}"]),
    "another manifest": (
        lambda folder: (folder / "manifest.yaml").write_bytes((folder / "manifest.yaml").read_bytes() + b"\n#\n"),
        [f"manifest.yaml is not that of iem-dcr {__version__}: {AGAIN}"],
    ),
    "a binary": (
        lambda folder: (folder / MODULE).touch(),
        [f"EVerest's manager starts {MODULE} and not module.py: remove it"],
    ),
    "an index.js": (
        lambda folder: (folder / "index.js").touch(),
        ["EVerest's manager starts index.js and not module.py: remove it"],
    ),
    "no module.py": (lambda folder: (folder / "module.py").unlink(), [f"{NOT_STARTED}it is missing: {AGAIN}"]),
    "another module": (
        lambda folder: (folder / "manifest.yaml").write_bytes(b"\xff"),
        ["this is not this module but another module"],
    ),
    "nothing": (shutil.rmtree, ["the module is not installed: iem-dcr everest install does that"]),
}


@pytest.mark.parametrize("what", PROBLEMS)
def test_what_is_wrong(prefix: Path, what: str) -> None:
    change, problems = PROBLEMS[what]
    folder = install_folder(prefix)
    assert checked(prefix)[1]["problems"] == []
    change(folder)
    before = contents(prefix)
    _, findings = checked(prefix)
    assert findings["problems"] == [problem.replace("PREFIX", str(prefix)) for problem in problems]
    fatal = (NOT_STARTED, "this is not this module", "the module is not installed")
    assert findings["starts"] is not any(problem.startswith(fatal) for problem in problems)
    done = run("everest", "check", str(prefix), PATH=BIN)
    assert done.status == 1
    assert done.out.splitlines()[7:] == [f"Problem: {problem}" for problem in findings["problems"]]
    assert contents(prefix) == before


# --- the command line ---


@pytest.mark.parametrize("command", ["install", "uninstall", "check"])
def test_mistakes_in_the_command_line(tmp_path: Path, prefix: Path, command: str) -> None:
    for words, said in [
        ((), "Missing argument 'PREFIX'"),
        ((str(tmp_path),), f"there is no EVerest at {tmp_path}: expected a folder with libexec/everest/modules, "),
        ((str(prefix), "--name", "../x"), "'../x' cannot be a module's name: expected letters, digits and _"),
        ((str(prefix), "--name", ""), "'' cannot be a module's name"),
        *(
            [
                ((str(prefix), "--user", "of-no-host"), "there is no user of-no-host on this host"),
                ((str(prefix), "--wheels", "/nowhere"), "Directory '/nowhere' does not exist"),
                ((str(prefix), "--wheels", "/", "--no-venv"), "--wheels fills .venv"),
            ]
            if command == "install"
            else []
        ),
    ]:
        done = run("everest", command, *words)
        assert (done.status, done.out) == (2, "")
        assert said in " ".join(done.err.split())
    assert not (prefix / "libexec").exists()


def test_a_failure_is_one_line(prefix: Path) -> None:
    done = run("everest", "uninstall", str(prefix))
    assert (done.status, done.out) == (1, "")
    assert done.err == f"Error: there is no {place_of(prefix)}: nothing was removed\n"
    (prefix / "libexec").write_text("in the way", encoding="utf-8")
    for command in ("install", "uninstall", "check"):
        done = run("everest", command, str(prefix))
        assert done.status == 1
    done = install(prefix, "--force")
    assert re.fullmatch(rf"Error: {MODULE} was not installed: {prefix}/libexec\S*: Not a directory\n", done.err)
