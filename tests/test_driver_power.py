"""A power cut in a session, a connection lost and regained, a charger without power: whose receipt comes out."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.support.bench import CI
from tests.support.stories import Story, fated
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

FATES = ("closed", "closed-late", "running", "lost")
SESSION = "start older; stop older; start A"
"""A transaction, with an older receipt in the meter that must not be taken for that of a later one."""
OUTCOME = {
    "closed": "stop A TX=P",
    "closed-late": "stop A TX=P",
    "running": "stop A TX=E",
    "lost": "stop A fails 'no receipt for this transaction'",
}
STORIES = [
    *(
        Story(
            f"{fate}: a stop {wait_s} s after a cut",
            f"{SESSION}; wait 5; cut 2 3; wait {wait_s}; {OUTCOME[fate]}; wait 10; calm; start B; stop B; shows {CI}",
            fated(fate),
        )
        for fate, wait_s in product(FATES, (0, 9))
    ),
    *(
        Story(
            f"{fate}: the next start keeps its receipt",
            f"{SESSION}; wait 5; cut 2 3; wait 10; start B; stop B; {OUTCOME[fate]}",
            fated(fate, late_close_s=2.0),
        )
        for fate in FATES
    ),
    *(
        Story(
            f"{fate}: the charger has no power either, the meter boots {boot_s} s, journal: {has_journal}",
            f"{SESSION}; cut 2 {boot_s}; restart; {OUTCOME[fate]}" + ("; stop '' of A" if fate != "lost" else ""),
            fated(fate),
            has_journal=has_journal,
        )
        for fate, boot_s, has_journal in (
            ("closed", 0.1, False),
            ("running", 3, False),
            ("closed", 20, False),
            ("closed", 3, True),
            ("closed-late", 0.1, True),
            ("running", 20, True),
            ("lost", 3, True),
            ("lost", 20, True),
        )
    ),
    # a meter out of reach
    Story("a lost connection", "start A; fault reset count=0; wait 30; troubled; heal; wait 15; calm; stop A"),
    Story("silent: ours is awaited", "start A; fault reset count=0; wait 20; later 40 heal; stop A T1 40..60"),
    Story(
        "silent: any is awaited", "hand begin; wait 2; fault stall count=0; wait 20; later 40 heal; stop A T1 40..60"
    ),
    Story(
        "E is sent when the meter is back",
        "start A; fault reset count=0; stop A fails 'does not answer'; heal; wait 15; idle; stop A",
    ),
    Story(
        "the wait for a first answer is as configured",
        "unseen; cut 20 5; stop A fails 'not reachable' 2.9..3.6",
        settings={"initial_connection_wait_ms": 3000},
    ),
]


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_power_and_connection(story: Story, path: Path) -> None:
    await story.tell(path)
