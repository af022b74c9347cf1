"""A double of EVerest's Python framework (everestpy), for a module that runs as EVerest's manager runs it.

It offers what everestpy offers and is as hard on a module as EVerest can be. Commands, ready and shutdown come from a
test over a TCP connection, and all that the module does goes back over it (``tests/support/everest_bench.py``).
"""

from __future__ import annotations

from . import error, log
from ._module import Module, RuntimeSession

__all__ = ["Module", "RuntimeSession", "error", "log"]
