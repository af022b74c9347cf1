"""Python's search for garbage, kept away from what lives as long as the process.

A full search looks at every object, and nothing else happens meanwhile: with 1,000 meters for 0.2 s, eight times while
they start and now and then later, each time with a hundred values late.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Final

STARTED_S: Final = 20.0
"""By then whatever the meters need has been made, if they answer."""
_NEVER: Final = 1_000_000_000


async def spare_collector() -> None:
    """Have only young objects searched while the service starts, and what it has made by then never again.

    It is this whole process's; to be called once, by its program.
    """
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    try:
        await asyncio.sleep(STARTED_S)
        gc.freeze()
    finally:
        gc.set_threshold(young, middle, old)
