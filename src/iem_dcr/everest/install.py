"""Installs the module among EVerest's modules, with an environment of its own, and removes it.

The module is made in a hidden folder beside its place, tried there, and renamed when it is complete. A charger often
cannot reach a package index. So the packages that the module needs are copied file by file from the running
installation, which gives the charger the same versions, or they come from a folder of wheels. Console scripts are not
copied: the first line of each names the environment it came from, and EVerest calls none.

A command that fails or is ended by a signal undoes its changes. A killed command leaves hidden folders, which the next
command cleans up. ``.NAME.new`` is an unfinished installation or a removed module, and is deleted. ``.NAME.old`` is a
replaced module: it is restored unless its successor is in place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from iem_dcr.errors import ConfigError, InstallationError, printable
from iem_dcr.everest.check import (
    ANSWER_TIMEOUT_S,
    MODULE_NAME,
    SOURCE,
    THIS_MODULE,
    VENV,
    examine,
    interpreters,
    module_folder,
    python_of_everestpy,
    run,
    version_of,
    what_is_at,
    why,
)
from iem_dcr.journaling import FILE, FOLDER_MODE, SYSTEM_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)

REQUIREMENTS: Final = ("cryptography>=42", "h11>=0.14")
"""The package's requirements at run time, as in pyproject.toml."""
_PARTS: Final = ("cryptography", "h11", "cffi")
"""The packages of `REQUIREMENTS` and those that they import."""
_WHEELS: Final = "cryptography, h11 and what they need"
_PACKAGE: Final = Path(__file__).parents[1]


class Installed(NamedTuple):
    """What was installed. Versions are written as "3.12", the rest in words; None if there is nothing to report."""

    folder: Path
    replaced: str | None
    everestpy_python: str | None
    environment: str | None
    state: str | None


def install(
    prefix: Path,
    name: str = MODULE_NAME,
    *,
    venv: bool = True,
    wheels: Path | None = None,
    force: bool = False,
    state: Path | None = None,
    user: str | None = None,
) -> Installed:
    """Install the module, and check that it would start.

    Args:
        prefix: EVerest's prefix.
        name: name of the module there.
        venv: make ``.venv`` beside module.py with all requirements. Without it the folder is copied and not tried.
        wheels: folder with wheels of the requirements, or None to copy them from the running installation.
        force: replace an existing module.
        state: folder to make for the journal of receipts, or None.
        user: the user that EVerest runs as, or None for root. This user owns ``state`` and has to be able to start the
            module.

    Raises:
        ConfigError: the name is not a module's name, there is no EVerest at that prefix, or there is no such user.
        InstallationError: the installation failed. The state before it is restored.
    """
    folder, owner = module_folder(prefix, name), _user(user)
    with _failing_as(f"{name} was not installed"), _workplace(folder) as new, contextlib.ExitStack() as undo:
        before = what_is_at(folder)
        if before is not None and not force:
            raise InstallationError(f"{folder} is there already: {before}. With --force it is replaced")
        built_for = python_of_everestpy(prefix)
        shutil.copytree(SOURCE, new, ignore=shutil.ignore_patterns("__pycache__", VENV))
        made = None
        if venv:
            made = _make_environment(_interpreter_for(built_for, prefix, wheels), new / VENV, folder / VENV, wheels)
            problems = examine(prefix, new).problems
            if problems:
                raise InstallationError(f"{name} was not installed: {'; '.join(problems)}")
            if user is not None and os.geteuid() == 0:
                _see_that_it_runs_as(owner, new / VENV / "bin" / "python3")
        kept = None if state is None else _make_state_folder(state, owner, undo)
        # A charger may lose its power at any moment, so the files are on the disk before the folder gets its name.
        os.sync()
        if before is not None:
            folder.rename(_hidden(folder, "old"))
        new.rename(folder)
        undo.pop_all()
    return Installed(folder, before, built_for, made, kept)


def uninstall(prefix: Path, name: str = MODULE_NAME) -> Path:
    """Remove the module and return its folder. Receipts stay.

    Raises:
        ConfigError: the name is not a module's name, or there is no EVerest at that prefix.
        InstallationError: the module is not there, or the folder is not this module's. Nothing was removed.
    """
    folder = module_folder(prefix, name)
    with _failing_as(f"{name} was not removed"), _workplace(folder) as new:
        present = what_is_at(folder)
        if present is None:
            raise InstallationError(f"there is no {folder}: nothing was removed")
        if present != THIS_MODULE:
            raise InstallationError(f"{folder} is not this module but {present}: nothing was removed")
        folder.rename(new)
    return folder


# --- undoing ---


def _hidden(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


@contextlib.contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """Make the folder of modules, and yield the hidden folder for a new one. No hidden folder remains at the end."""
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _put_in_order(folder)
        try:
            yield _hidden(folder, "new")
        finally:
            _put_in_order(folder)
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # it is not empty
                parent.rmdir()


def _put_in_order(folder: Path) -> None:
    old = _hidden(folder, "old")
    if os.path.lexists(old) and not os.path.lexists(folder):
        old.rename(folder)
    for path in (old, _hidden(folder, "new")):
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            _log.warning("%s could not be removed completely: remove it by hand", path)


@contextlib.contextmanager
def _failing_as(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path, reason = error.filename, error.strerror
        if isinstance(error, shutil.Error):
            path, _, reason = error.args[0][0]
        raise InstallationError(f"{what}: {printable(path, limit=200)}: {printable(reason)}") from error


# --- the environment ---


def _interpreter_for(built_for: str | None, prefix: Path, wheels: Path | None) -> str:
    """Return the path of an interpreter of that version. Without wheels only the running one is possible."""
    able = [sys.executable] if wheels is None else interpreters(prefix)
    found = next((path for path in able if built_for in (None, version_of(path, prefix))), None)
    if found is None:
        raise InstallationError(
            f"EVerest's everestpy is built for Python {built_for}, and this is Python {sys.version_info.major}."
            f"{sys.version_info.minor}: run iem-dcr with Python {built_for}; or have it on PATH, and give --wheels a "
            f"folder with wheels of {_WHEELS} for it (it takes 3.11 or newer). With --no-venv only the folder is copied"
        )
    return found


def _make_environment(interpreter: str, venv: Path, future: Path, wheels: Path | None) -> str:
    """Make an environment with all requirements, which will be renamed to `future`, and return a description of it."""
    options = ["--without-pip"] if wheels is None else []
    _demand("no environment can be made", interpreter, "-I", "-m", "venv", *options, venv)
    (site,) = (venv / "lib").glob("python3.*/site-packages")
    if wheels is None:
        _copy_what_is_needed(site)
    else:
        trouble = f"the wheels in {printable(wheels, limit=200)} are not those of {_WHEELS} for this Python and machine"
        pip = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-index"]
        python = venv / "bin" / "python3"
        _demand(f"{trouble}. pip said", python, "-I", *pip, "--find-links", wheels.absolute(), *REQUIREMENTS)
    shutil.copytree(_PACKAGE, site / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    # Compiled here, the module starts fast the first time too. Files that do not compile are never imported.
    run(venv / "bin" / "python3", "-I", "-m", "compileall", "-q", site)
    now, then = os.fsencode(venv), os.fsencode(future)
    for path in (venv / "pyvenv.cfg", *(venv / "bin").iterdir()):
        if path.is_file() and not path.is_symlink() and now in (content := path.read_bytes()):
            path.write_bytes(content.replace(now, then))
    found = {part.name: part.version for part in distributions(path=[str(site)])}
    source = "copied from here" if wheels is None else f"from {printable(wheels, limit=200)}"
    contents = ", ".join(f"{name} {found[name]}" for name in _PARTS if name in found)
    return f"Python {site.parent.name.removeprefix('python')}, {contents}, {source}"


def _copy_what_is_needed(site: Path) -> None:
    """Copy the packages file by file, as listed in their metadata."""
    for name in _PARTS:
        try:
            files = distribution(name).files
        except PackageNotFoundError:
            files = None
        own = [file for file in files or () if not file.is_absolute() and ".." not in file.parts]
        if not own:
            raise InstallationError(
                f"the files of {name} cannot be told from others in this Python's installation: install iem-dcr with "
                f"pip in an environment of its own, or give --wheels a folder with wheels of {_WHEELS}"
            )
        for file in own:
            if file.suffix != ".pyc":
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), site / file)


def _see_that_it_runs_as(user: pwd.struct_passwd, python: Path) -> None:
    groups = os.getgrouplist(user.pw_name, user.pw_gid)
    options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": groups}
    try:
        done = run(python, "-I", "-c", "import iem_dcr.everest.module", timeout=ANSWER_TIMEOUT_S, **options)
    except PermissionError as error:
        raise InstallationError(
            f"nothing was installed: user {user.pw_name} may not run {python.resolve()}, or not read "
            f"{python.parents[3]}. Run iem-dcr with a Python that this user may run"
        ) from error
    if done.returncode != 0:
        raise InstallationError(f"nothing was installed: it does not start as user {user.pw_name}: {why(done)}")


def _demand(trouble: str, *command: str | Path) -> None:
    done = run(*command)
    if done.returncode != 0:
        raise InstallationError(f"{trouble}: {why(done)}")


# --- the folder for receipts ---


def _user(name: str | None) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name or "root")
    except (KeyError, ValueError) as error:
        raise ConfigError([f"there is no user {printable(name, limit=60)} on this host"]) from error


def _make_state_folder(state: Path, owner: pwd.struct_passwd, undo: contextlib.ExitStack) -> str:
    """Make the folder for the journal of receipts unless it exists, and return a description of the result."""
    shown = printable(state, limit=200)
    if os.geteuid() != 0:
        return f"only root makes {shown}; without it they are kept in the home of EVerest's user"
    if not state.exists():
        state.mkdir(FOLDER_MODE)
        undo.callback(state.rmdir)
        state.chmod(FOLDER_MODE)
        os.chown(state, owner.pw_uid, owner.pw_gid)
    elif state.stat().st_uid != owner.pw_uid:
        return f"{shown} is another user's: chown -R {owner.pw_name} {shown}, or name that user with --user"
    elsewhere = "" if state == SYSTEM_FOLDER else f"; set journal_path to {shown}/{FILE}"
    return f"{shown}, for user {owner.pw_name}{elsewhere}"
