"""Prints a profile of the service by library, for benchmarks/fleet.py."""

from __future__ import annotations

import pstats
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    Function: TypeAlias = tuple[str, int, str]

TOP = 5
_WAITING = ("method 'poll' of 'select", "lock.acquire", "SimpleQueue")
_NAMES = {
    "iem_dcr": "this project",
    "paho": "paho, aiomqtt",
    "aiomqtt": "paho, aiomqtt",
    "json": "json",
    "asyncio": "asyncio",
    "h11": "h11",
}


def report_profile(stats: Path, values: int) -> None:
    """Print the share of each library, and its most expensive functions. Built-in functions count for their callers.

    Only the proportions are meaningful, because profiling makes everything slower. Waiting is not counted.
    """
    by_library: Counter[str] = Counter()
    by_function: dict[str, Counter[str]] = {}
    # the stubs of pstats lack this attribute
    functions: dict[Function, Any] = pstats.Stats(str(stats)).stats  # type: ignore[attr-defined]
    for function, (_, _, own_s, _, callers) in functions.items():
        if any(word in function[2] for word in _WAITING):
            continue
        shares = {caller: share[2] for caller, share in callers.items()} if function[0] == "~" else {}
        for caller, share_s in shares.items() or ((function, own_s),):
            library = _library(caller)
            name = f"{PurePath(caller[0]).name}:{caller[2]}" + (f" > {function[2]}" if shares else "")
            by_library[library] += share_s
            by_function.setdefault(library, Counter())[name] += share_s
    total_s = sum(by_library.values())
    print(f"Profile, {total_s / values * 1000:.3f} ms per value under the profiler")
    for library, took_s in by_library.most_common():
        print(f"  {library:14} {took_s / total_s:6.1%}")
        for name, function_s in by_function[library].most_common(TOP):
            print(f"      {function_s / total_s:6.1%}  {name}")


def _library(function: Function) -> str:
    for part in reversed(PurePath(function[0]).parts[:-1]):
        if part in _NAMES:
            return _NAMES[part]
    return "Python, others"
