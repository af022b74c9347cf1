"""The collector while a service starts: old objects are not searched, and those that it made never."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from iem_dcr.service.memory import STARTED_S, spare_collector
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("_collector")


@pytest.fixture
def _collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    assert gc.get_threshold() == before


@virtual
async def test_old_objects_are_not_searched_while_the_service_starts_and_those_it_made_never() -> None:
    ordinary = gc.get_threshold()
    sparing = asyncio.create_task(spare_collector())
    await asyncio.sleep(STARTED_S - 1)
    assert gc.get_threshold()[:2] == ordinary[:2]
    assert gc.get_threshold()[2] > 1_000_000
    assert gc.get_freeze_count() == 0
    await sparing
    assert gc.get_threshold() == ordinary
    assert gc.get_freeze_count() > 0


@virtual
async def test_a_service_that_ends_while_it_starts_leaves_the_collector_as_it_was() -> None:
    sparing = asyncio.create_task(spare_collector())
    await asyncio.sleep(1)
    sparing.cancel()
    await asyncio.gather(sparing, return_exceptions=True)
    assert gc.get_freeze_count() == 0
