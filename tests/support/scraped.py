"""A service with a page, and its metrics as a Prometheus sees them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families as plain

from iem_dcr.service.web_settings import WebSettings
from tests.support.service_site import Site, site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from prometheus_client.core import Metric


class Scraped:
    """What a Prometheus sees."""

    def __init__(self, text: str, read: Callable[[str], Any] = plain) -> None:
        self.text = text
        self.families: dict[str, Metric] = {family.name: family for family in read(text)}

    def samples(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        for family in self.families.values():
            for sample in family.samples:
                if sample.name == name:
                    yield sample.labels, sample.value

    def of(self, name: str, module_id: str = "pm1", **labels: str) -> float | None:
        """The one number with these labels, or None."""
        labels["module_id"] = module_id
        found = [number for got, number in self.samples(f"iem_dcr_{name}") if got == labels]
        assert len(found) <= 1
        return found[0] if found else None

    def by(self, label: str, name: str) -> dict[str, float]:
        """The numbers of a metric by one of its labels."""
        return {labels[label]: number for labels, number in self.samples(f"iem_dcr_{name}")}


async def get(running: Site, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """Ask the page. Returns status, Content-Type and body."""
    assert running.service.page is not None
    await running.service.page.listening.wait()
    url = running.service.page.url.rstrip("/") + path
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as response:
        return response.status, response.headers.get("Content-Type", ""), await response.text()


async def scrape(running: Site) -> Scraped:
    status, content_type, text = await get(running, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    return Scraped(text)


@contextlib.asynccontextmanager
async def watched(tmp_path: Path, *module_ids: str | None, token: str = "", dead: int = 0) -> AsyncIterator[Site]:
    """Run a service with a page and these meters, or pm1, for 3 s."""
    web = WebSettings("127.0.0.1:0", token=token)
    async with site(tmp_path, *(module_ids or ("pm1",)), web=web, dead=dead) as running:
        await running.pass_time(3.0)
        yield running
