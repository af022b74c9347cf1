"""Mutation tests: makes one small change of a decision at a time, and lists the changes that no direct test detects.

`make mutants` tries every module that mutants.toml lists. It changes each comparison, boolean operator, sign, number,
short text, truth value, branch, table entry and member of an enumeration. For each change the direct tests of the
module run in a forked process. If they pass, the change survives. The exit status is 1 if mutants.toml does not explain
why a surviving change makes no difference, or if more than `survive_percent` of all survive.
"""

from __future__ import annotations

import argparse
import ast
import importlib.machinery
import importlib.util
import os
import re
import sys
import tempfile
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import hypothesis.stateful  # imported here, so that each child need not import it
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

T = TypeVar("T")
ROOT: Final = Path(__file__).resolve().parents[1]
SETTINGS: Final = Path(__file__).with_suffix(".toml")
PYTEST: Final = (
    *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # the parent has already loaded pytest's plugins
    *("--timeout=60", "--timeout-method=thread"),  # detects a change that makes the tests hang
)
NOTICED: Final = (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
PRELOADED: Final = (hypothesis.stateful.__name__, "aiohttp.web", "cryptography.hazmat.primitives.asymmetric.ec", "h11")
COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
SIGNS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
}  # fmt: skip
UNTOUCHED_FIELDS: Final = ("annotation", "returns", "decorator_list", "type_params", "bases")


@dataclass(frozen=True)
class Mutant:
    """One change: function, line, source text before and after, and the compiled module."""

    where: str
    line: int
    before: str
    after: str
    code: CodeType

    def __str__(self) -> str:
        """Return the name in mutants.toml, which omits the line because it changes."""
        return f"{self.where}: {self.before} -> {self.after}"


def replacements(node: ast.AST, members: dict[str, list[str]]) -> Iterator[ast.AST]:
    """Yield the replacements of a node. ``members`` lists the members of each enumeration that the module uses."""
    yield from _other_operators(node)
    yield from _other_constants(node, members)
    yield from _other_branches(node)


def _other_operators(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare():
            for at, op in enumerate(node.ops):
                for other in COMPARISONS[type(op)]:
                    yield ast.Compare(node.left, [*node.ops[:at], other(), *node.ops[at + 1 :]], node.comparators)
        case ast.BoolOp():
            yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
            for left in _without_one(node.values):
                yield ast.BoolOp(node.op, left) if len(left) > 1 else left[0]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(left, op, right) if type(op) in SIGNS:
            yield ast.BinOp(left, SIGNS[type(op)](), right)


def _other_constants(node: ast.AST, members: dict[str, list[str]]) -> Iterator[ast.AST]:
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str(value)) if re.fullmatch(r"[\w.-]*", value):
            yield ast.Constant(f"{value}x")
        case ast.Attribute(value=ast.Name(id=name), attr=attr) if len(known := members.get(name, [])) > 1:
            if attr in known:
                yield ast.Attribute(node.value, known[known.index(attr) - 1], node.ctx)


def _other_branches(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Dict(keys, values):
            for entries in _without_one([*zip(keys, values, strict=True)]):
                yield ast.Dict([key for key, _ in entries], [value for _, value in entries])
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.If(test, body, orelse) | ast.While(test, body, orelse):
            yield type(node)(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.comprehension(ifs=ifs):
            for left in _without_one(ifs):
                yield ast.comprehension(node.target, node.iter, left, node.is_async)


def _without_one(items: list[T]) -> Iterator[list[T]]:
    return ([*items[:at], *items[at + 1 :]] for at in range(len(items)))


def enumerations(tree: ast.Module) -> dict[str, list[str]]:
    """Return the upper-case members that a module uses of each name, in alphabetical order."""
    found: dict[str, set[str]] = defaultdict(set)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and re.fullmatch("[A-Z_]{3,}", node.attr)
        ):
            found[node.value.id].add(node.attr)
    return {name: sorted(members) for name, members in found.items()}


def mutants(path: Path) -> Iterator[Mutant]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    members = enumerations(tree)

    def walk(node: ast.AST, where: str) -> Iterator[Mutant]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            where = f"{where}.{node.name}".lstrip(".")
        for field, value in ast.iter_fields(node):
            if field in UNTOUCHED_FIELDS:
                continue
            places: list[Any] = value if isinstance(value, list) else [value]
            for at, child in enumerate(places):
                if not isinstance(child, ast.AST) or _is_left_alone(child):
                    continue
                for other in replacements(child, members):
                    ast.copy_location(other, child if hasattr(child, "lineno") else node)
                    _put(node, field, at, other)
                    code = compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True)
                    _put(node, field, at, child)
                    line = getattr(child, "lineno", getattr(node, "lineno", 0))
                    yield Mutant(where or "the module", line, _text(child), _text(other), code)
                yield from walk(child, where)

    yield from walk(tree, "")


def _is_left_alone(node: ast.AST) -> bool:
    """Return whether a node is a docstring, a message, an import, or code for type checkers only."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.JoinedStr() | ast.ImportFrom() | ast.Import():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
    return False


def _put(node: ast.AST, field: str, at: int, value: ast.AST) -> None:
    if isinstance(getattr(node, field), list):
        getattr(node, field)[at] = value
    else:
        setattr(node, field, value)


def _text(node: ast.AST) -> str:
    """Return the source of a node in one line. Of a branch, return the condition."""
    shown = node.test if isinstance(node, (ast.If, ast.While)) else node
    return " ".join(ast.unparse(shown).split())


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads the code of a changed module."""

    code: CodeType

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002  the signature is importlib's
        return self.code


class _Finder:
    """Finds one changed module."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        self._name, self._loader = name, _Loader(name, str(path))
        self._loader.code = code

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self._loader) if name == self._name else None


def start(path: Path, code: CodeType, tests: list[str], folder: str) -> int:
    """Fork a process that runs the tests with a changed module. Its exit status is that of pytest.

    Its temporary files are in a folder of its own: pytest's shared one fails if many processes use it at once.
    """
    pid = os.fork()
    if pid:
        return pid
    status: int = pytest.ExitCode.INTERNAL_ERROR
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        sys.meta_path.insert(0, _Finder(name, path, code))
        status = pytest.main([*PYTEST, f"--basetemp={folder}/{os.getpid()}", *tests])
    finally:
        os._exit(status)


def survivors(path: Path, tests: list[str], workers: int) -> tuple[int, list[Mutant]]:
    """Run the tests against every mutant. Return the number of mutants, and the surviving ones."""
    with tempfile.TemporaryDirectory() as folder:
        return _survivors(path, tests, workers, folder)


def _survivors(path: Path, tests: list[str], workers: int, folder: str) -> tuple[int, list[Mutant]]:
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)
    unchanged = start(path, code, tests, folder)
    if os.waitpid(unchanged, 0)[1] != 0:
        raise SystemExit(f"{', '.join(tests)} fail without a change of {path.name}")
    waiting, count = mutants(path), 0
    running: dict[int, Mutant] = {}
    alive: list[Mutant] = []
    while True:
        for mutant in islice(waiting, workers - len(running)):
            running[start(path, mutant.code, tests, folder)] = mutant
            count += 1
        if not running:
            return count, sorted(alive, key=lambda mutant: mutant.line)
        pid, status = os.waitpid(-1, 0)
        mutant, status = running.pop(pid), os.waitstatus_to_exitcode(status)
        if status == 0:
            alive.append(mutant)
        elif status not in NOTICED:
            raise SystemExit(f"pytest ended with {status} for {mutant}")


def main() -> int:
    """Try the given modules, or all. Return 1 if a change survives without an explanation."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("modules", nargs="*", help="names from mutants.toml, such as driver/ledger.py")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    for name in PRELOADED:
        importlib.import_module(name)
    settings = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    tried = survived = without_reason = 0
    for module in arguments.modules or settings["modules"]:
        entry = settings["modules"][module]
        path = ROOT / "src/iem_dcr" / module
        count, alive = survivors(path, [str(ROOT / test) for test in entry["tests"]], arguments.workers)
        explained = entry.get("survive", {})
        unexplained = [mutant for mutant in alive if str(mutant) not in explained]
        print(f"{module}: {count} changes, {len(alive)} survive, {len(unexplained)} unexplained")
        for mutant in unexplained:
            print(f"  line {mutant.line}, {mutant}")
        for stale in sorted(set(explained) - {str(mutant) for mutant in alive}):
            print(f"  no longer survives: {stale}")
        tried, survived, without_reason = tried + count, survived + len(alive), without_reason + len(unexplained)
    percent = 100 * survived / tried
    print(f"In all: {tried} changes, {survived} survive ({percent:.1f} %)")
    return 0 if not without_reason and percent <= settings["survive_percent"] else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.path.insert(0, str(ROOT / "src"))
    os.chdir(ROOT)
    sys.exit(main())
