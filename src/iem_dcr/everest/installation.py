"""Puts the module's folder among EVerest's modules, takes it away again, and says what is there.

All is made in a hidden folder beside the module's and renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from iem_dcr import __version__
from iem_dcr.errors import ConfigError, printable
from iem_dcr.everest import environment
from iem_dcr.everest.environment import Environment, InstallationError, PythonVersion, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)

MODULE_NAME = "IsabellenhuetteIemDcr"

_SOURCE = Path(__file__).parent / MODULE_NAME
_MANIFEST = "manifest.yaml"
_MARKER = ".iem-dcr"
_VENV = ".venv"
_MODULES = "libexec/everest/modules"
_EVERESTPY = "lib/everest/everestpy"
_SIGNS_OF_EVEREST = (_MODULES, "lib/everest", "share/everest", "bin/manager")
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_BUILT_FOR = re.compile(r"\.cpython-3(\d+)-")
_DESCRIPTION = re.compile(r"^description:[ \t]*(?:[>|][+-]?[ \t]*\n[ \t]+)?(\S.*)$", re.MULTILINE)
_PROBE = """\
import json, sys
found = {"python": "%d.%d" % sys.version_info[:2], "version": None}
try:
    import iem_dcr
    found["version"] = iem_dcr.__version__
except ImportError:
    pass
print(json.dumps(found), flush=True)
import everest.framework
import iem_dcr.everest.module
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """What was installed.

    Attributes:
        folder: of the module.
        replaced: what was there before, in words, or None.
        everestpy_python: the version everestpy is built for, "3.12"; None where that cannot be told.
        environment: made beside module.py, or None.
    """

    folder: Path
    replaced: str | None
    everestpy_python: str | None
    environment: Environment | None


@dataclass(frozen=True, slots=True)
class Findings:
    """What is there.

    Attributes:
        folder: of the module.
        found: what it is, in words; None where there is nothing.
        is_this_module: whether it is this module.
        version: of the package that module.py gets, or None.
        manifest_equal: whether manifest.yaml is this package's.
        interpreter: path of what the manager would start, or None.
        python: its version, "3.12", or None.
        everestpy: whether everestpy is in the prefix.
        everestpy_python: the version it is built for, or None.
        starts: whether module.py is there and finds all it imports.
        problems: what is wrong, and what to do; empty when all is well.
    """

    folder: str
    found: str | None
    is_this_module: bool
    version: str | None
    manifest_equal: bool
    interpreter: str | None
    python: str | None
    everestpy: bool
    everestpy_python: str | None
    starts: bool
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return it as JSON types."""
        return asdict(self) | {"problems": list(self.problems)}


def module_folder(prefix: Path, name: str = MODULE_NAME) -> Path:
    """Return where a module of that name belongs.

    Raises:
        ConfigError: no module can have that name, or there is no EVerest at that prefix.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            [f"{printable(name, limit=60)!r} cannot be a module's name: expected letters, digits and _, no digit first"]
        )
    if not any((prefix / sign).exists() for sign in _SIGNS_OF_EVEREST):
        signs = ", ".join(_SIGNS_OF_EVEREST[:-1]) + " or " + _SIGNS_OF_EVEREST[-1]
        raise ConfigError([f"there is no EVerest at {printable(prefix)}: expected a folder with {signs} in it"])
    return prefix.absolute() / _MODULES / name


def install(prefix: Path, name: str = MODULE_NAME, *, venv: bool = True, force: bool = False) -> Installed:
    """Install the module.

    Args:
        prefix: EVerest's.
        name: of the module there.
        venv: make ``.venv`` beside module.py with all it needs; EVerest's manager uses it by itself.
        force: replace what is there.

    Raises:
        ConfigError: no module can have that name, or there is no EVerest at that prefix.
        InstallationError: it did not succeed; what was there before is there still.
    """
    folder = module_folder(prefix, name)
    with _failing_as(f"{name} was not installed"):
        before = _Present.at(folder)
        if before is not None and not force:
            raise InstallationError(f"{folder} is there already: {before.text}. With --force it is replaced")
        built_for = _built_for(prefix)
        interpreter = environment.interpreter_for(built_for) if venv else None
        with _workplace(folder) as workplace:
            new = workplace / name
            _copy_folder(new)
            made = environment.make(interpreter, new / _VENV, folder / _VENV) if interpreter is not None else None
            # A charger may lose its power at any moment: the files go to the disk before the folder gets its name.
            os.sync()
            _put_in_place(new, folder)
    replaced = None if before is None else before.text
    return Installed(folder, replaced, built_for and dotted(built_for), made)


def uninstall(prefix: Path, name: str = MODULE_NAME) -> Path:
    """Remove the module and return the folder it was in.

    Raises:
        ConfigError: no module can have that name, or there is no EVerest at that prefix.
        InstallationError: it is not there, or what is there is something else; nothing was removed.
    """
    folder = module_folder(prefix, name)
    with _failing_as(f"{name} was not removed"):
        present = _Present.at(folder)
        if present is None:
            raise InstallationError(f"there is no {folder}: nothing was removed")
        if not present.is_ours:
            raise InstallationError(f"{folder} is not this module but {present.text}: nothing was removed")
        aside = _aside(folder)
        folder.rename(aside)
        _remove(aside)
    return folder


def check(prefix: Path, name: str = MODULE_NAME) -> Findings:
    """Look at what is there, and have its Python import what module.py imports. Nothing is changed.

    Raises:
        ConfigError: no module can have that name, or there is no EVerest at that prefix.
        InstallationError: it cannot be looked at.
    """
    folder = module_folder(prefix, name)
    with _failing_as(f"{name} cannot be looked at"):
        present = _Present.at(folder)
        built_for = _built_for(prefix)
        wanted = built_for and dotted(built_for)
        everestpy = (prefix / _EVERESTPY / "everest").exists()
        problems = [] if everestpy else [f"there is no everestpy in {prefix / _EVERESTPY}"]
        probed, equal = _Probed(), False
        if present is None:
            problems.append("the module is not installed: iem-dcr everest install does that")
        elif not present.is_ours:
            problems.append(f"this is not this module but {present.text}")
        else:
            probed = _probe(prefix, folder)
            equal = _read(folder / _MANIFEST) == _read(_SOURCE / _MANIFEST)
            problems += _problems_of_folder(folder, manifest_equal=equal)
            if probed.python is not None and wanted not in (None, probed.python):
                problems.append(f"everestpy is built for Python {wanted}, and this starts Python {probed.python}")
            if probed.error is not None:
                problems.append(f"module.py does not start: {probed.error}")
        return Findings(
            str(folder),
            None if present is None else present.text,
            is_this_module=present is not None and present.is_ours,
            version=probed.version,
            manifest_equal=equal,
            interpreter=probed.interpreter,
            python=probed.python,
            everestpy=everestpy,
            everestpy_python=wanted,
            starts=probed.starts,
            problems=tuple(problems),
        )


def _problems_of_folder(folder: Path, *, manifest_equal: bool) -> list[str]:
    problems = []
    if not manifest_equal:
        problems.append(f"{_MANIFEST} is not that of iem-dcr {__version__}: install again with --force")
    before_module_py = [name for name in (folder.name, "index.js") if (folder / name).exists()]
    problems += [f"EVerest's manager starts {name} and not module.py: remove it" for name in before_module_py]
    return problems


@dataclass(frozen=True, slots=True)
class _Probed:
    """What came of importing what module.py imports, by the interpreter that the manager would start."""

    interpreter: str | None = None
    python: str | None = None
    version: str | None = None
    starts: bool = False
    error: str | None = None


def _probe(prefix: Path, folder: Path) -> _Probed:
    if not (folder / "module.py").is_file():
        return _Probed(error="it is missing: install again with --force")
    own = folder / _VENV / "bin" / "python3"
    interpreter = str(own) if (folder / _VENV).exists() else shutil.which("python3")
    if interpreter is None:
        return _Probed(error="there is no python3 on PATH")
    if not os.access(interpreter, os.X_OK):
        return _Probed(interpreter, error=f"{interpreter} leads to no interpreter: install again with --force")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    variables |= {"PYTHONPATH": str((prefix / _EVERESTPY).absolute()), "PYTHONDONTWRITEBYTECODE": "1"}
    done = environment.run(interpreter, "-c", _PROBE, variables=variables, folder=folder)
    found: object = None
    with contextlib.suppress(ValueError):
        found = json.loads(done.stdout.partition("\n")[0])
    if not isinstance(found, dict):
        return _Probed(interpreter, error=f"{interpreter} is no Python: install again with --force")
    starts = done.returncode == 0
    error = None if starts else environment.why(done)
    return _Probed(interpreter, found.get("python"), found.get("version"), starts, error)


@dataclass(frozen=True, slots=True)
class _Present:
    """Something at a module's place."""

    is_ours: bool
    text: str

    @classmethod
    def at(cls, folder: Path) -> _Present | None:
        if not os.path.lexists(folder):
            return None
        if not folder.is_dir():
            return cls(is_ours=False, text="no folder")
        manifest = _read(folder / _MANIFEST)
        if manifest is None:
            return cls(is_ours=False, text=f"a folder without {_MANIFEST}")
        marker: object = None
        with contextlib.suppress(ValueError):
            marker = json.loads(_read(folder / _MARKER) or b"null")
        # The marker alone says too little: another module may have been installed over this one.
        if isinstance(marker, dict) and marker.get("manifest_sha256") == hashlib.sha256(manifest).hexdigest():
            return cls(is_ours=True, text=f"this module, version {printable(marker.get('version'), limit=30)}")
        if manifest == _read(_SOURCE / _MANIFEST):
            return cls(is_ours=True, text="this module, not put there by iem-dcr")
        described = _DESCRIPTION.search(manifest.decode(errors="replace"))
        text = printable(described[1]) if described else "nothing"
        kind = "a module" if marker is None else f"what was this module, with another {_MANIFEST},"
        return cls(is_ours=False, text=f"{kind} that says of itself: {text}")


def _built_for(prefix: Path) -> PythonVersion | None:
    """Return the version of Python that everestpy is built for, by its file names; ours where there are several."""
    names = [path.name for path in (prefix / _EVERESTPY).rglob("*.so")]
    versions = {(3, int(found[1])) for found in map(_BUILT_FOR.search, names) if found}
    running = sys.version_info[:2]
    return running if running in versions else max(versions, default=None)


def _copy_folder(new: Path) -> None:
    shutil.copytree(_SOURCE, new, ignore=shutil.ignore_patterns("__pycache__", _VENV, _MARKER))
    manifest = hashlib.sha256((new / _MANIFEST).read_bytes()).hexdigest()
    marker = json.dumps({"version": __version__, "manifest_sha256": manifest})
    (new / _MARKER).write_text(marker + "\n", encoding="utf-8")


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


@contextlib.contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """Make a hidden folder beside a module's, and its parents; in the end nothing remains that is not in use."""
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            yield workplace
        finally:
            _remove(workplace)
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # not empty: it is in use
                parent.rmdir()


def _put_in_place(new: Path, folder: Path) -> None:
    """Rename a new folder to a module's; what was there before is removed, or put back if that fails."""
    if not os.path.lexists(folder):
        new.rename(folder)
        return
    aside = _aside(folder)
    folder.rename(aside)
    try:
        new.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    _remove(aside)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-{os.getpid()}-removed")


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it; what cannot be removed is logged."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        _log.warning("%s could not be removed whole: remove it by hand", path)


@contextlib.contextmanager
def _failing_as(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path, reason = error.filename, error.strerror
        if isinstance(error, shutil.Error):
            path, _, reason = error.args[0][0]
        raise InstallationError(f"{what}: {printable(path, limit=200)}: {printable(reason)}") from error
