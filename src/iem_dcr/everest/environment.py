"""The environment beside module.py, ``.venv``, which EVerest's manager uses by itself: which Python, and what is in it.

everestpy is one shared object, so the environment has to be of the minor version of Python that it is built for. How
it is filled, as a charger often has no way to a package index:

1. Where the Python that runs this is of that version, what is needed at run time (h11, cryptography and what they
   need) is copied file by file from the installation in use: nothing is fetched, and the charger gets the very
   versions that were tried.
2. For another Python, or where those files cannot be told from the rest, pip installs them.

The package itself is copied in both cases, so nothing is built. Console scripts are left out: the first line of each
names the environment it came from, and EVerest calls none.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from iem_dcr import __version__
from iem_dcr.errors import IemDcrError, printable

_log = logging.getLogger(__name__)

REQUIREMENTS = {"cryptography": "42", "h11": "0.14"}
"""What the package needs at run time, and since which version."""
OLDEST_PYTHON = (3, 11)

_PACKAGE = Path(__file__).parents[1]
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")
_OPTIONAL = re.compile(r"\bextra\b")
_PATIENCE_S = 60.0
_WORKS = "import cryptography.hazmat.primitives.asymmetric.ec, iem_dcr.driver"

PythonVersion = tuple[int, int]


class InstallationError(IemDcrError):
    """The module could not be installed or removed; what was there before is there still."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What an environment is.

    Attributes:
        python: its version, "3.12".
        contents: what the package needs at run time, with versions: "h11 0.14.0".
        copied: whether that was copied from the Python in use; else pip installed it.
    """

    python: str
    contents: tuple[str, ...]
    copied: bool


def dotted(version: PythonVersion) -> str:
    """Write a minor version of Python: "3.12"."""
    return f"{version[0]}.{version[1]}"


def interpreter_for(built_for: PythonVersion | None) -> str:
    """Return the path of an interpreter of that version: the running one, or one on PATH.

    Raises:
        InstallationError: there is none, or the package does not run with that version.
    """
    if built_for is None or built_for == sys.version_info[:2]:
        return sys.executable
    version = dotted(built_for)
    if built_for < OLDEST_PYTHON:
        raise InstallationError(
            f"EVerest's everestpy is built for Python {version}; this module needs {dotted(OLDEST_PYTHON)} or newer"
        )
    for folder in os.get_exec_path():
        candidate = Path(folder) / f"python{version}"
        # A launcher of that name may have no such version to launch.
        if candidate.is_file() and os.access(candidate, os.X_OK) and _version_of(candidate) == version:
            return str(candidate)
    raise InstallationError(
        f"EVerest's everestpy is built for Python {version}, this is Python {dotted(sys.version_info[:2])}, and there "
        f"is no python{version} on PATH: install it, or run iem-dcr with it. With --no-venv only the folder is copied"
    )


def make(interpreter: str, venv: Path, future: Path) -> Environment:
    """Make an environment with all that the module needs.

    Args:
        interpreter: whose version it gets.
        venv: folder to make.
        future: path that folder will be renamed to.

    Raises:
        InstallationError: it could not be filled; what there is of it is of no use.
    """
    copied = _fill(interpreter, venv)
    site = _site_packages(venv)
    found = {part.name: part.version for part in distributions(path=[str(site)])}
    _tell_where_it_will_be(venv, future)
    contents = tuple(f"{name} {found[name]}" for name in REQUIREMENTS)
    return Environment(site.parent.name.removeprefix("python"), contents, copied)


def run(
    *command: str | Path,
    variables: dict[str, str] | None = None,
    folder: Path | None = None,
    patience_s: float | None = _PATIENCE_S,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, or for ``patience_s`` at most, which counts as a failure."""
    words = [str(word) for word in command]
    try:
        return subprocess.run(  # noqa: S603  interpreters, of this process or found on PATH, with words of these files
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            env=variables,
            cwd=folder,
            timeout=patience_s,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", f"no end within {patience_s:.0f} s")


def why(done: subprocess.CompletedProcess[str]) -> str:
    """Say why a command failed: the last line it wrote, or the signal that ended it."""
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    for output in (done.stderr, done.stdout):
        lines = output.split("\n")
        for line in reversed(lines):
            if line.strip():
                return printable(line, limit=300)
    return f"ended with status {done.returncode}"


def _version_of(interpreter: Path) -> str:
    done = run(interpreter, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    return done.stdout.strip() if done.returncode == 0 else ""


def _fill(interpreter: str, venv: Path) -> bool:
    """Make and fill it; return whether that was done by copying."""
    if interpreter == sys.executable:
        try:
            _fill_by_copying(interpreter, venv)
        except InstallationError as error:
            _log.warning("%s; pip is asked for %s", error, " and ".join(REQUIREMENTS))
        else:
            return True
    _fill_by_pip(interpreter, venv)
    return False


def _fill_by_copying(interpreter: str, venv: Path) -> None:
    parts = _installed_parts()
    _demand("no environment can be made", interpreter, "-I", "-m", "venv", "--without-pip", venv)
    site = _site_packages(venv)
    for part in parts:
        for file in part.files or ():
            if file.is_absolute() or ".." in file.parts:
                continue
            source, target = Path(str(file.locate())), site / file
            if source.suffix == ".pyc" and not source.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    _add_package(venv)


def _fill_by_pip(interpreter: str, venv: Path) -> None:
    _demand("no environment can be made", interpreter, "-I", "-m", "venv", "--clear", venv)
    wanted = [f"{name}>={version}" for name, version in REQUIREMENTS.items()]
    pip = ("-I", "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check")
    python = venv / "bin" / "python3"
    _demand(
        f"{' and '.join(REQUIREMENTS)} could not be installed: see that pip finds them, or run iem-dcr with a Python "
        f"{_site_packages(venv).parent.name.removeprefix('python')} that has them. pip said",
        python,
        *pip,
        *wanted,
    )
    _add_package(venv)


def _installed_parts() -> list[Distribution]:
    """Return what the package needs, and what that needs, as installed for the Python that runs this.

    Raises:
        InstallationError: something is missing, too old, or does not know its files.
    """
    parts: dict[str, Distribution] = {}
    waiting = [(name, "") for name in REQUIREMENTS]
    while waiting:
        name, marker = waiting.pop()
        if name in parts or _OPTIONAL.search(marker):
            continue
        try:
            part = distribution(name)
        except PackageNotFoundError as error:
            if marker.strip():  # it holds for another Python or platform, else it would be here
                continue
            raise InstallationError(f"{name} is not installed for this Python") from error
        _can_be_copied(name, part)
        parts[name] = part
        for text in part.requires or ():
            wanted, _, condition = text.partition(";")
            found = _REQUIREMENT.match(wanted)
            if found:
                waiting.append((re.sub(r"[-_.]+", "-", found[0]).lower(), condition))
    return list(parts.values())


def _can_be_copied(name: str, part: Distribution) -> None:
    oldest = REQUIREMENTS.get(name)
    if oldest is not None and _numbers(part.version) < _numbers(oldest):
        raise InstallationError(f"{name} {part.version} is installed, needed is {oldest} or newer")
    if not part.files or any(file.suffix == ".pth" for file in part.files):
        raise InstallationError(f"{name} is installed in a way that does not say which files are its own")


def _add_package(venv: Path) -> None:
    """Add this package and what says that it is installed, compile all, and see that it can be imported."""
    site = _site_packages(venv)
    shutil.copytree(_PACKAGE, site / "iem_dcr", ignore=shutil.ignore_patterns("__pycache__"))
    info = site / f"iem_dcr-{__version__}.dist-info"
    info.mkdir()
    needs = "".join(f"Requires-Dist: {name}>={version}\n" for name, version in REQUIREMENTS.items())
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: iem-dcr\nVersion: {__version__}\nLicense: Apache-2.0\n{needs}", encoding="utf-8"
    )
    (info / "INSTALLER").write_text("iem-dcr\n", encoding="utf-8")
    files = [path for part in (site / "iem_dcr", info) for path in part.rglob("*") if path.is_file()]
    lines = [f"{path.relative_to(site)},,\n" for path in sorted([*files, info / "RECORD"])]
    (info / "RECORD").write_text("".join(lines), encoding="utf-8")
    python = venv / "bin" / "python3"
    # Compiled now, the module starts as fast the first time. What packages carry that does not compile is not imported.
    run(python, "-I", "-m", "compileall", "-q", site, patience_s=None)
    _demand("the environment does not work", python, "-I", "-c", _WORKS)


def _site_packages(venv: Path) -> Path:
    (site,) = (venv / "lib").glob("python3.*/site-packages")
    return site


def _tell_where_it_will_be(venv: Path, future: Path) -> None:
    """Put the final path into what names its place: pyvenv.cfg, and the scripts in bin."""
    now, then = os.fsencode(venv), os.fsencode(future)
    for path in (venv / "pyvenv.cfg", *(venv / "bin").iterdir()):
        if path.is_file() and not path.is_symlink() and now in (content := path.read_bytes()):
            path.write_bytes(content.replace(now, then))


def _demand(trouble: str, *command: str | Path) -> None:
    done = run(*command, patience_s=None)
    if done.returncode != 0:
        raise InstallationError(f"{trouble}: {why(done)}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version)[:2])
