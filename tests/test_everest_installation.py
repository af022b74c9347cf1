"""The EVerest module among a charger's modules: put there whole or not at all, and nothing of others touched."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import iem_dcr.everest
from iem_dcr import __version__
from iem_dcr.errors import ConfigError, InstallationError
from iem_dcr.everest.check import check, module_folder, python_of_everestpy
from iem_dcr.everest.install import REQUIREMENTS, install, uninstall
from tests.support.bench import CI
from tests.support.command_line import Simulator, begin, finish, run
from tests.support.everest_bench import DOUBLE, EverestBench
from tests.support.everest_prefix import (
    EVERESTS_OWN,
    FRAMEWORK,
    MODULE,
    RUNNING,
    contents,
    everest_at,
    place_of,
    put_vendors,
)
from tests.test_everest_module import assert_ended_well, start, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    assert installed.environment.startswith(f"Python {RUNNING}, cryptography ")
    assert installed.environment.endswith(", copied from here")
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


NO_NAMES = [
    "", ".", "..", "../x", "a/b", "/tmp/x", "a.b", "a-b", "1a", "a b", "a\n", "\n", "ä", "a\x00", "-a", "٣", "\udcff",  # noqa: S108  no path
]  # fmt: skip


@pytest.mark.parametrize("act", [install, uninstall, check])
def test_hostile_names_are_refused(prefix: Path, act: Callable[..., object]) -> None:
    before = contents(prefix)
    for name in NO_NAMES:
        with pytest.raises(ConfigError, match=r"cannot be a module's name: expected letters, digits and _"):
            act(prefix, name)
    assert contents(prefix) == before


@given(st.text(st.characters(exclude_categories=()), max_size=20) | st.from_regex(r"[a-zA-Z_][\w.-]*"))
@example("_")
@example("Meter_2")
def test_a_name_stays_in_the_modules_folder(whole: Path, name: str) -> None:
    said = ""
    try:
        folder = module_folder(whole, name)
    except ConfigError as error:
        said = str(error)
    else:
        assert (folder.parent, folder.name) == (place_of(whole).parent, name)
    assert (said == "") is (name.isidentifier() and name.isascii())
    assert said.isprintable()


@pytest.mark.parametrize("sign", ["libexec/everest/modules", "lib/everest", "share/everest", "bin/manager"])
def test_it_is_installed_where_something_looks_like_everest(
    tmp_path: Path, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"there is no EVerest at .*: expected a folder with libexec/everest/modules"):
        install(tmp_path, venv=False, force=True)
    assert contents(tmp_path) == {}
    (tmp_path / sign).mkdir(parents=True)
    monkeypatch.chdir(tmp_path.parent)
    assert install(Path(tmp_path.name), venv=False).folder == place_of(tmp_path)


# --- the folder ---


def test_the_folder_is_copied_as_it_is(prefix: Path) -> None:
    installed = install(prefix, "Meter", venv=False)
    assert (installed.environment, installed.replaced) == (None, None)
    there = contents(installed.folder)
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


def vendors(folder: Path) -> None:
    put_vendors(folder.parents[3])


@pytest.mark.parametrize(("put", "said"), [
    (vendors, "a module described as: Driver in C\\+\\+ for the IEM"), (a_file, "no folder"),
    (no_manifest, "a folder without manifest.yaml"), (a_dead_link, "no folder"),
])  # fmt: skip
def test_existing_module_stays_without_force(prefix: Path, put: Callable[[Path], object], said: str) -> None:
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

    assert re.match(said, install(prefix, venv=False, force=True).replaced or "")
    assert {path.name for path in folder.parent.iterdir()} == {MODULE}
    assert {"module.py", "manifest.yaml"} <= set(contents(folder))
    assert MODULE not in contents(folder)
    with pytest.raises(InstallationError, match=r"is there already: this module\. With --force it is replaced"):
        install(prefix, venv=False)
    assert install(prefix, venv=False, force=True).replaced == "this module"


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


WITHOUT_ROOTS_RIGHT_TO_WRITE_ANYWHERE = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)  # fails for other users, who do not have it
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_without_permission_nothing_changes(prefix: Path) -> None:
    install(prefix, venv=False)
    before = contents(prefix)
    modules = place_of(prefix).parent
    modules.chmod(0o555)
    other = ["install", "--no-venv", "--name", "Other", "--state-folder", str(prefix / "state")]
    try:
        for words, said in ((other, "Other was not installed"), (["uninstall"], f"{MODULE} was not removed")):
            command = ["-c", WITHOUT_ROOTS_RIGHT_TO_WRITE_ANYWHERE, "-m", "iem_dcr", "everest", *words]
            done = subprocess.run([sys.executable, *command, str(prefix)], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout) == (1, "")
            assert re.fullmatch(rf"Error: {said}: {modules}\S*: Permission denied\n", done.stderr)
    finally:
        modules.chmod(0o755)
    assert contents(prefix) == before


def test_leftovers_of_a_killed_command_are_repaired(prefix: Path) -> None:
    folder = put_vendors(prefix)
    before = contents(prefix)
    hidden = {what: folder.with_name(f".{MODULE}.{what}") for what in ("new", "old", "gone")}
    # It was killed when the old module had made room, and the new one was whole.
    folder.rename(hidden["old"])
    shutil.copytree(SOURCE, hidden["new"])
    with pytest.raises(InstallationError, match="is there already: a module described as"):
        install(prefix)
    assert contents(prefix) == before
    # It was killed when the new one was in place.
    shutil.copytree(folder, hidden["old"])
    shutil.copytree(folder, hidden["gone"])
    with pytest.raises(InstallationError, match="is not this module"):
        uninstall(prefix)
    assert contents(prefix) == before


def command_lines() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield (process / "cmdline").read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_installation_leaves_what_was_there(tmp_path: Path, number: signal.Signals) -> None:
    fresh, used = everest_at(tmp_path / "fresh"), everest_at(tmp_path / "used")
    put_vendors(used)
    before = contents(tmp_path)
    for prefix in (fresh, used):
        process = begin("everest", "install", "--force", str(prefix), "--state-folder", str(tmp_path / "state"))
        new = place_of(prefix).with_name(f".{MODULE}.new")
        while not (new / ".venv").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        done = finish(process)
        if number is signal.SIGKILL:
            assert done.status == -number
            while any(str(new) in words for words in command_lines()):  # what it had started goes on for a moment
                time.sleep(0.01)
            uninstalled = run("everest", "uninstall", str(prefix))
            assert uninstalled.status == 1
        else:
            assert (done.status, done.out, done.err.strip()) == (130, "", "Interrupted.")
    if number is signal.SIGKILL:  # the process knew that it had made this folder, the next one does not
        (fresh / "libexec/everest/modules").rmdir()
        (fresh / "libexec/everest").rmdir()
        (fresh / "libexec").rmdir()
    assert contents(tmp_path) == before


def test_a_failure_half_way_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "bin", "3.29", "echo 'Traceback'; echo 'No module named venv' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    fresh, used = everest_at(tmp_path / "fresh", "3.29"), everest_at(tmp_path / "used", "3.29")
    put_vendors(used)
    before = contents(tmp_path)
    for prefix in (fresh, used):
        with pytest.raises(InstallationError, match="no environment can be made: No module named venv"):
            install(prefix, force=True, wheels=tmp_path)
    assert contents(tmp_path) == before


def test_a_module_that_would_not_start_is_not_installed(tmp_path: Path) -> None:
    """everestpy says why only in its first try: here its shared object cannot be loaded."""
    prefix = everest_at(tmp_path / "everest", None, EVERESTS_OWN)
    put_vendors(prefix)
    before = contents(tmp_path)
    with pytest.raises(InstallationError) as failed:
        install(prefix, force=True, state=tmp_path / "state")
    shared_object = prefix / "lib/everest/everestpy/everest/framework/everestpy.so"
    assert str(failed.value) == (
        f"{MODULE} was not installed: module.py does not start: ImportError: {shared_object}: file too short"
    )
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_what_was_there(prefix: Path) -> None:
    """A limit to the size of files stands in for it: copying fails at the first big one."""
    put_vendors(prefix)
    before = contents(prefix)
    command = [sys.executable, "-m", "iem_dcr", "everest", "install", "--force", str(prefix)]
    limited = ["sh", "-c", 'ulimit -f 1024; exec "$@"', "sh", *command, "--state-folder", str(prefix / "state")]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(rf"Error: {MODULE} was not installed: /\S+\.so: File too large\n", done.stderr)
    assert contents(prefix) == before


# --- which Python ---


def test_another_python_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = everest_at(tmp_path / "everest", "3.28")
    # A launcher that knows no such version is none, nor is what cannot be run, nor an interpreter of another version.
    stand_in(tmp_path / "one", "3.28", "exit 127")
    (tmp_path / "one" / "python3.28").write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    stand_in(tmp_path / "two", "3.27", "exit 0")
    (tmp_path / "two" / "python3.27").rename(tmp_path / "two" / "python3.28")
    stand_in(tmp_path / "three", "3.28", "exit 0")
    (tmp_path / "three" / "python3.28").chmod(0o644)
    before = contents(prefix)
    trouble = (
        f"EVerest's everestpy is built for Python 3.28, and this is Python {RUNNING}: run iem-dcr with Python 3.28; "
        "or have it on PATH, and give --wheels a folder with wheels of cryptography, h11 and what they need for it (it "
        "takes 3.11 or newer). With --no-venv only the folder is copied"
    )
    with pytest.raises(InstallationError, match=re.escape(trouble)):
        install(prefix)
    for name in ("none", "one", "two", "three"):
        monkeypatch.setenv("PATH", str(tmp_path / name))
        with pytest.raises(InstallationError, match=re.escape(trouble)):
            install(prefix, wheels=tmp_path)
    assert contents(prefix) == before
    installed = install(prefix, venv=False)
    assert installed.everestpy_python == "3.28"


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
    assert findings.problems == ("module.py does not start: no answer within 1 s",)
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


def test_check_of_a_whole_installation(whole: Path) -> None:
    folder = place_of(whole)
    before = contents(folder)
    findings = check(whole)
    assert (findings.problems, findings.found) == ((), "this module")
    assert findings.is_this_module
    assert findings.manifest_equal
    assert findings.everestpy
    assert findings.starts
    assert findings.version == __version__
    assert findings.python == findings.everestpy_python == RUNNING
    assert findings.interpreter == f"{folder}/.venv/bin/python3"
    assert contents(folder) == before
    assert os.listdir(folder.parent) == [MODULE]  # noqa: PTH208  as above
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
    assert check(prefix).problems == ()

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


# --- the folder for receipts ---

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give a folder to another user and start programs as that user"
)


@needs_root
def test_the_folder_for_receipts_is_made_for_a_user(prefix: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    nobody = pwd.getpwnam("nobody")
    said = f"{state}, for user nobody; set journal_path to {state}/receipts.db"
    assert install(prefix, venv=False, state=state, user="nobody").state == said
    made = state.stat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (nobody.pw_uid, nobody.pw_gid, 0o700)
    (state / "receipts.db").touch()
    assert install(prefix, venv=False, force=True, state=state, user="nobody").state == said
    other = install(prefix, venv=False, force=True, state=state).state
    assert other == f"{state} is another user's: chown -R root {state}, or name that user with --user"
    assert state.stat().st_uid == nobody.pw_uid
    assert (state / "receipts.db").exists()


@needs_root
def test_a_module_that_everests_user_could_not_start_is_not_installed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    prefix = everest_at(closed / "everest")
    before = contents(tmp_path)
    with pytest.raises(InstallationError, match=r"nothing was installed: user nobody may not run .*, or not read "):
        install(prefix, state=tmp_path / "state", user="nobody")
    assert contents(tmp_path) == before


@needs_root
def test_the_folder_for_receipts_goes_when_the_installation_fails(
    prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(tmp_path)

    def fails() -> None:
        assert (tmp_path / "state").exists()
        raise OSError(errno.EIO, "Input/output error", "/dev/sda")

    monkeypatch.setattr(os, "sync", fails)
    with pytest.raises(InstallationError, match="was not installed: /dev/sda: Input/output error"):
        install(prefix, venv=False, state=tmp_path / "state")
    assert contents(tmp_path) == before


def test_only_root_makes_the_folder_for_receipts(prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    state = tmp_path / "state"
    said = install(prefix, venv=False, state=state).state
    assert said == f"only root makes {state}; without it they are kept in the home of EVerest's user"
    assert not state.exists()


def test_a_user_that_does_not_exist(prefix: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="there is no user of-no-host on this host"):
        install(prefix, venv=False, state=tmp_path / "state", user="of-no-host")
    assert contents(tmp_path) == before
