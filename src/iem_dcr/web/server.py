"""The page's server. It is a task of its own, and no meter depends on it.

aiohttp limits what clients can do (lines and headers of 4 KiB, a body of 4 KiB, idle connections closed after 15 s),
and the number of streams is limited. The server is made for the people of one site. If it is reachable for others, a
reverse proxy must limit connections and requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final, NoReturn

from aiohttp import web

from iem_dcr.driver.timing import now_s
from iem_dcr.errors import printable
from iem_dcr.service.observation import Health
from iem_dcr.web import templates
from iem_dcr.web.auth import Auth
from iem_dcr.web.live import Streams
from iem_dcr.web.middleware import Checks, add_headers
from iem_dcr.web.pages import Pages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iem_dcr.service.observation import ObservedMeter
    from iem_dcr.service.web_settings import WebSettings

_log = logging.getLogger(__name__)

RETRY_AFTER_S: Final = 10.0
MAX_LINE: Final = 4096
"""Bytes of a request's first line, and of one header."""
MAX_BODY: Final = 4096
"""Bytes. Only the token's form has a body."""
IDLE_TIMEOUT_S: Final = 15.0
_BACKLOG: Final = 32
_SHUTDOWN_TIMEOUT_S: Final = 0.2


class WebServer:
    """Serves the page.

    Args:
        settings: the address, and who may see the page.
        meters: the meters to show.
        status: returns the status of the service in one line.
        health: returns the health of the service.

    Raises:
        ConfigError: the token's file cannot be read, or contains no token.

    Attributes:
        listening: set while the server listens.
        port: its TCP port; 0 before it listens.
    """

    def __init__(
        self,
        settings: WebSettings,
        meters: Sequence[ObservedMeter],
        status: Callable[[], str],
        health: Callable[[], Health] = Health,
    ) -> None:
        self._settings = settings
        self._meters = meters
        self._status = status
        self._health = health
        self._auth = Auth(settings.read_token(), now_s)
        self._failing = ""
        self._streams = Streams()
        self.listening = asyncio.Event()
        self.port = 0
        templates.load()  # slow, so it is done before any meter is read

    @property
    def url(self) -> str:
        """URL of the page for a browser on this computer."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"http://{host}:{self.port or self._settings.port}/"

    @property
    def open_streams(self) -> int:
        """Number of open streams."""
        return self._streams.count

    async def run(self) -> NoReturn:
        """Serve until cancelled. If the port is not available, try again, and log this once."""
        while True:
            try:
                await self._serve()
            except OSError as error:
                # asyncio wraps the reason of a failed bind in its own text.
                why = printable(os.strerror(error.errno) if error.errno else error)
                level = logging.DEBUG if why == self._failing else logging.ERROR
                self._failing = why
                _log.log(
                    level,
                    "no bring-up page at %s (listen in [web]): %s; it is tried again every %.0f s, "
                    "and the meters are not affected",
                    self._settings.listen,
                    why,
                    RETRY_AFTER_S,
                )
            await asyncio.sleep(RETRY_AFTER_S)

    async def _serve(self) -> None:
        pages = Pages(self._meters, self._status, self._health, self._auth, self._streams)
        checks = Checks(self._settings, self._auth)
        application = web.Application(client_max_size=MAX_BODY, middlewares=[checks.errors, checks.refusals])
        application.on_response_prepare.append(add_headers)
        application.add_routes(pages.routes())
        runner = web.AppRunner(
            application,
            access_log=None,
            logger=_quiet_log(),
            keepalive_timeout=IDLE_TIMEOUT_S,
            lingering_time=0.0,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
            handler_cancellation=True,
        )
        try:
            await runner.setup()
            await web.TCPSite(runner, self._settings.host, self._settings.port, backlog=_BACKLOG).start()
            self.port = runner.addresses[0][1]
            _log.info("the bring-up page is at %s", self.url)
            self._failing = ""
            self.listening.set()
            await asyncio.Event().wait()
        finally:
            self.listening.clear()
            pages.close()
            await runner.cleanup()


def _quiet_log() -> logging.Logger:
    """Return a silent log for aiohttp's messages about malformed requests. Any client could flood the log with them."""
    log = _log.getChild("aiohttp")
    log.setLevel(logging.CRITICAL)
    return log
