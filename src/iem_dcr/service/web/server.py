"""The page's server: a task beside the meters' that none of them depends on."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NoReturn, cast

from aiohttp import web

from iem_dcr.config import shown
from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.errors import ConfigError, printable
from iem_dcr.service.metrics import Metrics
from iem_dcr.service.one_thread import OneThread
from iem_dcr.service.standing import Standing
from iem_dcr.service.web.access import Access
from iem_dcr.service.web.book import ReceiptBook
from iem_dcr.service.web.connections import Listener, listening_socket
from iem_dcr.service.web.guard import LARGEST_BODY, Guard
from iem_dcr.service.web.routes import routes_of
from iem_dcr.service.web.site import Site
from iem_dcr.service.web.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iem_dcr.service.observation import ObservedMeter
    from iem_dcr.service.web_settings import WebSettings

_log = logging.getLogger(__name__)

TRIED_AGAIN_AFTER_S: Final = 10.0
ENDS_WITHIN_S: Final = 0.2
IDLE_S: Final = 15.0
TOKEN_WITHIN_S: Final = 5.0
_LONGEST_LINE: Final = 4096


class WebServer:
    """Serves the page.

    Args:
        settings: where, and to whom.
        meters: what there is to show.
        status: how the service is, in a line.
        standing: how the service is, for programs.

    Attributes:
        listening: set while it listens.
        port: the TCP port it listens at; 0 before.
    """

    def __init__(
        self,
        settings: WebSettings,
        meters: Sequence[ObservedMeter],
        status: Callable[[], str],
        standing: Callable[[], Standing] = Standing,
    ) -> None:
        self._settings = settings
        self._meters = meters
        self._status = status
        self._standing = standing
        self._failing = ""
        self._streams = Streams()
        self.listening = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        """Where it is, for a browser on this computer."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"http://{host}:{self.port or self._settings.port}/"

    @property
    def looking_on(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    async def run(self) -> NoReturn:
        """Serve until cancelled. While the port cannot be had it is tried again, and the log says so once."""
        while True:
            try:
                await self._serve()
            except (OSError, ConfigError) as error:
                why = printable((error.strerror if isinstance(error, OSError) else None) or error)
                level = logging.DEBUG if why == self._failing else logging.ERROR
                self._failing = why
                _log.log(
                    level,
                    "no bring-up page at %s (listen in [web]): %s; it is tried again every %.0f s, "
                    "and the meters do without",
                    self._settings.listen,
                    why,
                    TRIED_AGAIN_AFTER_S,
                )
            await asyncio.sleep(TRIED_AGAIN_AFTER_S)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        access = Access(await self._token(), loop.time)
        site = Site(
            meters=self._meters,
            status=self._status,
            standing=self._standing,
            access=access,
            receipts=ReceiptBook(),
            metrics=Metrics(self._meters, self._standing),
            streams=self._streams,
            failures=RateLimitedLog(_log, loop.time),
        )
        guard = Guard(self._settings, access, loop.time)
        application = web.Application(client_max_size=LARGEST_BODY, middlewares=[guard.middleware])
        application.on_response_prepare.append(guard.add_headers)
        for route in routes_of(site):
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                guard.know(application.router.add_route(method, route.path, route.handler), route)
        runner = web.AppRunner(
            application,
            access_log=None,
            logger=_quiet_log(),
            keepalive_timeout=IDLE_S,
            lingering_time=0.0,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
            shutdown_timeout=ENDS_WITHIN_S,
            handler_cancellation=True,
        )
        await runner.setup()
        try:
            listening = listening_socket(self._settings.host, self._settings.port)
            self.port = listening.getsockname()[1]
            _log.info("the bring-up page is at %s", self.url)
            self._failing = ""
            self.listening.set()
            server = cast("web.Server", runner.server)  # there is one after setup
            await Listener(server, listening, self._streams.is_stream).run()
        finally:
            self.listening.clear()
            site.receipts.close()
            site.metrics.close()
            await runner.cleanup()

    async def _token(self) -> str | None:
        """Read the token, which may be on a disk that hangs.

        Raises:
            ConfigError: it cannot be read.
        """
        if self._settings.token_file is None:
            return self._settings.token
        thread = OneThread("page-token")
        try:
            return await thread.do(self._settings.read_token, TOKEN_WITHIN_S)
        except TimeoutError:
            raise ConfigError([f"token_file {shown(self._settings.token_file)} cannot be read: no answer"]) from None
        finally:
            thread.close()


def _quiet_log() -> logging.Logger:
    """Return a log for aiohttp's words on requests that are none, which anybody could fill the log with."""
    log = _log.getChild("aiohttp")
    log.setLevel(logging.CRITICAL)
    return log
