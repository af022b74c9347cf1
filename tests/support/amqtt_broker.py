"""amqtt's broker as a process: python -m tests.support.amqtt_broker PORT."""

from __future__ import annotations

import asyncio
import logging
import sys

from amqtt.broker import Broker  # type: ignore[import-untyped]


async def serve(port: int) -> None:
    plugin = "amqtt.plugins.authentication.AnonymousAuthPlugin"
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {plugin: {"allow_anonymous": True}},
        }
    )
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(serve(int(sys.argv[1])))
