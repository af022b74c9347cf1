"""Checks what is installed at a module's place in an EVerest prefix, and whether it would start. It changes nothing.

EVerest's manager starts module.py with the Python of the ``.venv`` beside it, else with the python3 on PATH. everestpy
is one shared object, built for one minor version of Python. Its file name contains that version (``.cpython-312-``)
unless EVerest's own CMake installed it. In that case each interpreter tries to import it in a process of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iem_dcr import __version__
from iem_dcr.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE_NAME: Final = "IsabellenhuetteIemDcr"
SOURCE: Final = Path(__file__).parent / MODULE_NAME
MANIFEST: Final = "manifest.yaml"
VENV: Final = ".venv"
THIS_MODULE: Final = "this module"
ANSWER_TIMEOUT_S: Final = 60.0
"""How long an interpreter may take for a program. An executable on PATH may be anything."""

_MODULES = "libexec/everest/modules"
_EVERESTPY = "lib/everest/everestpy"
_SIGNS_OF_EVEREST = (_MODULES, "lib/everest", "share/everest", "bin/manager")
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OURS = b"The iem-dcr authors"
_TAG = re.compile(r"\.cpython-3(\d+)-")
_SAYS_ITS_VERSION = "import sys; print('%d.%d' % sys.version_info[:2], flush=True)\n"
_IMPORTS_WHAT_MODULE_PY_IMPORTS = """\
try:
    import iem_dcr
    print(iem_dcr.__version__, flush=True)
    import everest.framework
    import iem_dcr.everest.module, iem_dcr.everest.framework, cryptography.hazmat.primitives.asymmetric.ec
except ImportError as error:
    while isinstance(error.__context__, ImportError):  # everestpy tries a second import, which hides the first error
        error = error.__context__
    sys.exit(f"{type(error).__name__}: {error}")
"""


@dataclass(slots=True)
class Findings:
    """The result of a check.

    Attributes:
        found: what is in the folder of the module, in words, or None if there is nothing.
        everestpy: whether everestpy is in the prefix.
        everestpy_python: version of Python that everestpy is built for, "3.12", or None.
        version: version of the package iem_dcr that module.py imports, or None.
        manifest_equal: whether manifest.yaml equals this package's.
        interpreter: path of the interpreter that the manager would start, or None.
        python: version of that interpreter, or None.
        starts: whether module.py exists and all its imports succeed.
        problems: what is wrong and what to do; empty if all is well.
    """

    folder: str
    found: str | None
    is_this_module: bool
    everestpy: bool
    everestpy_python: str | None
    version: str | None = None
    manifest_equal: bool = False
    interpreter: str | None = None
    python: str | None = None
    starts: bool = False
    problems: list[str] = field(default_factory=list)


def check(prefix: Path, name: str = MODULE_NAME) -> Findings:
    """Check the module's folder, and let its Python import what module.py imports.

    Raises:
        ConfigError: the name is not a module's name, or there is no EVerest at that prefix.
        OSError: the folder cannot be read.
    """
    return examine(prefix, module_folder(prefix, name))


def examine(prefix: Path, folder: Path) -> Findings:
    """Check any folder in the same way as `check`."""
    found = what_is_at(folder)
    everestpy = (prefix / _EVERESTPY / "everest").exists()
    findings = Findings(str(folder), found, found == THIS_MODULE, everestpy, python_of_everestpy(prefix))
    problems = findings.problems
    if not everestpy:
        problems.append(f"there is no everestpy in {prefix / _EVERESTPY}")
    if found is None:
        problems.append("the module is not installed: iem-dcr everest install does that")
    elif found != THIS_MODULE:
        problems.append(f"this is not this module but {found}")
    else:
        _examine_this_module(prefix, folder, findings)
    return findings


def _examine_this_module(prefix: Path, folder: Path, findings: Findings) -> None:
    findings.manifest_equal = _read(folder / MANIFEST) == _read(SOURCE / MANIFEST)
    problems = findings.problems
    if not findings.manifest_equal:
        problems.append(f"{MANIFEST} is not that of iem-dcr {__version__}: install again with --force")
    before_module_py = [other for other in (folder.name, "index.js") if (folder / other).exists()]
    problems += [f"EVerest's manager starts {other} and not module.py: remove it" for other in before_module_py]
    trouble = _try_to_start(prefix, folder, findings)
    built_for = findings.everestpy_python
    if None not in (findings.python, built_for) and built_for != findings.python:
        problems.append(f"everestpy is built for Python {built_for}, and this starts Python {findings.python}")
    if trouble:
        problems.append(f"module.py does not start: {trouble}")
    findings.starts = not trouble


def _try_to_start(prefix: Path, folder: Path, findings: Findings) -> str:
    """Let the interpreter that the manager would start import what module.py imports; return why it cannot, or ""."""
    if not (folder / "module.py").is_file():
        return "it is missing: install again with --force"
    own = folder / VENV / "bin" / "python3"
    findings.interpreter = str(own) if (folder / VENV).exists() else shutil.which("python3")
    if findings.interpreter is None:
        return "there is no python3 on PATH"
    if not os.access(findings.interpreter, os.X_OK):
        return f"{findings.interpreter} leads to no interpreter: install again with --force"
    done = _run_as_manager(findings.interpreter, _SAYS_ITS_VERSION + _IMPORTS_WHAT_MODULE_PY_IMPORTS, prefix, folder)
    said = [re.fullmatch(r"\d+\.\d+[\w.+]*", line) for line in done.stdout.split("\n", 2)[:2]]
    findings.python, findings.version, *_ = [*(line and line[0] for line in said), None, None]
    return "" if done.returncode == 0 else why(done)


def module_folder(prefix: Path, name: str) -> Path:
    """Return the folder for a module of that name.

    Raises:
        ConfigError: the name is not a module's name, or there is no EVerest at that prefix.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            [f"{printable(name, limit=60)!r} cannot be a module's name: expected letters, digits and _, no digit first"]
        )
    if not any((prefix / sign).exists() for sign in _SIGNS_OF_EVEREST):
        signs = ", ".join(_SIGNS_OF_EVEREST[:-1]) + " or " + _SIGNS_OF_EVEREST[-1]
        raise ConfigError([f"there is no EVerest at {printable(prefix)}: expected a folder with {signs} in it"])
    return prefix.absolute() / _MODULES / name


def what_is_at(folder: Path) -> str | None:
    """Return what is at a module's place: `THIS_MODULE` in any version, a description, or None for nothing."""
    if not os.path.lexists(folder):
        return None
    if not folder.is_dir():
        return "no folder"
    # Only the manifest counts: another module may have been installed over this one.
    manifest = _read(folder / MANIFEST)
    if manifest is None:
        return f"a folder without {MANIFEST}"
    return THIS_MODULE if _OURS in manifest else "another module"


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def python_of_everestpy(prefix: Path) -> str | None:
    """Return the version of Python that everestpy is built for, "3.12", or None if it is unknown.

    If there are builds for several versions, return the running one, else the newest.
    """
    minors = {int(found[1]) for path in (prefix / _EVERESTPY).rglob("*.so") if (found := _TAG.search(path.name))}
    if minors:
        return f"3.{sys.version_info.minor if sys.version_info.minor in minors else max(minors)}"
    if not (prefix / _EVERESTPY / "everest").exists():
        return None
    able = (version_of(interpreter, prefix, "import everest.framework") for interpreter in interpreters(prefix))
    return next(filter(None, able), None)


def interpreters(prefix: Path) -> Iterator[str]:
    """Yield this interpreter, the one beside everestpy, and those on PATH."""
    names = ("python3", *(f"python3.{minor}" for minor in range(11, 30)))
    found = [shutil.which(name, path=path) for path in (str(prefix / "bin"), None) for name in names]
    yield from dict.fromkeys(filter(None, [sys.executable, *found]))


def version_of(interpreter: str, prefix: Path, program: str = "") -> str | None:
    """Return an interpreter's version, "3.12", or None if the program fails in it."""
    done = _run_as_manager(interpreter, _SAYS_ITS_VERSION + program, prefix)
    return done.stdout.partition("\n")[0] if done.returncode == 0 else None


def _run_as_manager(
    interpreter: str, program: str, prefix: Path, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    variables |= {"PYTHONPATH": str((prefix / _EVERESTPY).absolute()), "PYTHONDONTWRITEBYTECODE": "1"}
    return run(interpreter, "-c", program, env=variables, cwd=folder, timeout=ANSWER_TIMEOUT_S)


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401  subprocess.run's
    """Run an interpreter to its end, with options of `subprocess.run`. A time-out becomes exit status 1."""
    options |= {"stdin": subprocess.DEVNULL, "capture_output": True, "encoding": "utf-8", "errors": "replace"}
    try:
        return subprocess.run(command, check=False, **options)  # noqa: S603  the commands are made in this package
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {error.timeout:g} s")


def why(done: subprocess.CompletedProcess[str]) -> str:
    """Return why a command failed: its last line of output, or the signal that ended it."""
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    lines = [line for output in (done.stdout, done.stderr) for line in output.split("\n") if line.strip()]
    return printable(lines[-1], limit=300) if lines else f"ended with status {done.returncode}"
