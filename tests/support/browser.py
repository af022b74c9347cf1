"""A headless Chromium that pages are opened in, and what they must not do there."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from tests.support.tools import needs_module, needs_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Dialog, Page

PATIENCE_MS = 60_000
PHONE = {"width": 360, "height": 740}


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start it; its program is the one that is installed."""
    api = needs_module("playwright.sync_api")
    program = needs_tool("chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        try:
            yield browser
        finally:
            browser.close()


class Trouble:
    """What went wrong in a browser: messages of its console, errors of scripts, dialogs, what its rules held back."""

    def __init__(self, context: BrowserContext) -> None:
        self.seen: list[str] = []
        context.on("console", lambda message: self._console(message.type, message.text))
        context.on("weberror", lambda error: self.seen.append(str(error.error)))
        context.on("dialog", self._dialog)

    def _dialog(self, dialog: Dialog) -> None:
        self.seen.append(dialog.message)
        dialog.dismiss()

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.seen.append(text)


@contextlib.contextmanager
def opened(browser: Browser, url: str, *, expected: tuple[str, ...] = (), **context: Any) -> Iterator[Page]:
    """Open a page of its own, and see that nothing goes wrong in it but what is expected."""
    made = browser.new_context(**({"reduced_motion": "reduce"} | context))
    made.set_default_timeout(PATIENCE_MS)
    trouble = Trouble(made)
    try:
        page = made.new_page()
        page.goto(url)
        yield page
        wrong = [one for one in trouble.seen if not any(part in one for part in expected)]
        assert not wrong, wrong
    finally:
        made.close()


def is_as_wide_as(page: Page, width: int) -> bool:
    """Tell whether nothing has to be moved sideways to be seen."""
    return bool(page.evaluate("document.documentElement.scrollWidth") <= width)
