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
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import iem_dcr.everest
from iem_dcr.errors import ConfigError, InstallationError
from iem_dcr.everest.check import check, module_folder
from iem_dcr.everest.install import install, uninstall
from tests.support.command_line import begin, finish, run
from tests.support.everest_prefix import (
    EVERESTS_OWN,
    MODULE,
    contents,
    everest_at,
    place_of,
    put_vendors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(iem_dcr.everest.__file__).parent / MODULE
NEEDED = ["h11", "cryptography", "cffi"]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return everest_at(tmp_path / "everest")


# --- where ---


@pytest.mark.parametrize("act", [install, uninstall, check])
def test_hostile_names_are_refused(prefix: Path, act: Callable[..., object]) -> None:
    before = contents(prefix)
    for name in ("", "..", "../x", "/tmp/x", "a\n", "a\x00", "-a"):  # noqa: S108  no path
        with pytest.raises(ConfigError, match=r"cannot be a module's name: expected letters, digits and _"):
            act(prefix, name)
    assert contents(prefix) == before


@given(st.text(st.characters(exclude_categories=()), max_size=20) | st.from_regex(r"[a-zA-Z_][\w.-]*"))
@example("_")
@example("Meter_2")
def test_a_name_stays_in_the_modules_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    whole = everest_at(tmp_path_factory.mktemp("everest"))
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


@pytest.mark.parametrize(("put", "said"), [
    (lambda folder: put_vendors(folder.parents[3]), "another module"),
    (lambda folder: folder.write_text("x", encoding="utf-8"), "no folder"),
    (lambda folder: folder.symlink_to("nowhere"), "no folder"),
    (lambda folder: folder.mkdir(), "a folder without manifest.yaml"),
])  # fmt: skip
def test_existing_module_stays_without_force(prefix: Path, put: Callable[[Path], object], said: str) -> None:
    folder = place_of(prefix)
    folder.parent.mkdir(parents=True)
    put(folder)
    before = contents(prefix)
    with pytest.raises(InstallationError, match=f"is there already: {said}. With --force it is replaced"):
        install(prefix)
    with pytest.raises(InstallationError, match=f"is not this module but {said}: nothing was removed"):
        uninstall(prefix)
    findings = check(prefix)
    assert (findings.is_this_module, findings.starts) == (False, False)
    assert findings.problems == [f"this is not this module but {said}"]
    assert contents(prefix) == before

    assert install(prefix, venv=False, force=True).replaced == said
    assert {path.name for path in folder.parent.iterdir()} == {MODULE}
    assert {"module.py", "manifest.yaml"} <= set(contents(folder))
    assert MODULE not in contents(folder)
    with pytest.raises(InstallationError, match=r"is there already: this module\. With --force it is replaced"):
        install(prefix, venv=False)
    assert install(prefix, venv=False, force=True).replaced == "this module"


@pytest.mark.parametrize("act", [lambda prefix: install(prefix, venv=False, force=True), uninstall])
def test_where_a_link_leads_is_left_alone(prefix: Path, tmp_path: Path, act: Callable[[Path], object]) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(SOURCE, elsewhere)
    place_of(prefix).parent.mkdir(parents=True)
    place_of(prefix).symlink_to(elsewhere)
    before = contents(elsewhere)
    act(prefix)
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
    hidden = {what: folder.with_name(f".{MODULE}.{what}") for what in ("new", "old")}
    # It was killed when the old module had made room, and the new one was whole.
    folder.rename(hidden["old"])
    shutil.copytree(SOURCE, hidden["new"])
    with pytest.raises(InstallationError, match="is there already: another module"):
        install(prefix)
    assert contents(prefix) == before
    # It was killed when the new one was in place.
    shutil.copytree(folder, hidden["old"])
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
        if number is signal.SIGTERM:
            assert (done.status, done.out, done.err.strip()) == (130, "", "Interrupted.")
            continue
        assert done.status == -number
        while any(str(new) in words for words in command_lines()):  # what it had started goes on for a moment
            time.sleep(0.01)
        assert run("everest", "uninstall", str(prefix)).status == 1
    if number is signal.SIGKILL:  # the process knew that it had made these folders, the next one does not
        (fresh / "libexec/everest/modules").rmdir()
        (fresh / "libexec/everest").rmdir()
        (fresh / "libexec").rmdir()
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
