"""A power cut in a session, a connection lost and regained, a charger without power: whose receipt comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.stories import Story, stories
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
STORIES = stories("""
[closed|closed-late]: a stop [0|9] s after a cut
    meter open_at_power_cut=$1 late_close_s=8.0; start older; stop older; start A; wait 5; cut 2 3; wait $2;
    stop A TX=P; wait 10; calm; start B; stop B; shows DE*TST*E0001*1
running: a stop [0|9] s after a cut
    meter open_at_power_cut=running; start older; stop older; start A; wait 5; cut 2 3; wait $1; stop A TX=E; wait 10;
    calm; start B; stop B; shows DE*TST*E0001*1
lost: a stop [0|9] s after a cut
    meter open_at_power_cut=lost; start older; stop older; start A; wait 5; cut 2 3; wait $1;
    stop A fails 'no receipt for this transaction'; wait 10; calm; start B; stop B; shows DE*TST*E0001*1
[closed|closed-late|running]: the next start keeps its receipt
    meter open_at_power_cut=$1 late_close_s=2.0; start older; stop older; start A; wait 5; cut 2 3; wait 10; start B;
    stop B; stop A
lost: the next start goes on
    meter open_at_power_cut=lost; start older; stop older; start A; wait 5; cut 2 3; wait 10; start B; stop B;
    stop A fails 'no receipt for this transaction'

# the charger has no power either
[closed|running], the meter boots [0.1|3|20] s
    meter open_at_power_cut=$1; start older; stop older; start A; cut 2 $2; restart; stop A; stop '' of A
[closed|closed-late|running], the meter boots [0.1|20] s, with a journal
    journal; meter open_at_power_cut=$1 late_close_s=8.0; start older; stop older; start A; cut 2 $2; restart; stop A;
    stop '' of A
lost, the meter boots [3|20] s, with a journal
    journal; meter open_at_power_cut=lost; start older; stop older; start A; cut 2 $1; restart;
    stop A fails 'no receipt for this transaction'

# a meter out of reach
a lost connection
    start A; fault reset count=0; wait 30; troubled; heal; wait 15; calm; stop A
silent: the receipt of ours is awaited
    start A; fault reset count=0; wait 20; later 40 heal; stop A T1 40..60
silent: the receipt of any is awaited
    hand begin; wait 2; fault stall count=0; wait 20; later 40 heal; stop A T1 40..60
E is sent when the meter is back
    start A; fault reset count=0; stop A fails 'does not answer'; heal; wait 15; idle; stop A
the wait for a first answer is as configured
    driver initial_connection_wait_ms=3000; unseen; cut 20 5; stop A fails 'not reachable' 2.9..3.6
""")


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_power_and_connection(story: Story, path: Path) -> None:
    await story.tell(path)
