"""The topics of EVerest's power meter API, version 1, and the checks of topics.

The addresses are from EVerest's AsyncAPI document of `powermeter_API`. ``e2m`` means from EVerest to the meter, ``m2e``
from the meter to EVerest.
"""

from __future__ import annotations

from typing import Final

READY_BEACON: Final = "everest_api/ready_beacon"
"""EVerest publishes on this topic when it has started."""
QUERY_MODULES: Final = "everest_api/query-modules/powermeter"
"""Every power meter API answers a query on this topic."""

MAX_TOPIC_BYTES: Final = 1024
MAX_TOPIC_LEVELS: Final = 100
"""mosquitto closes the connection of a client that publishes on a topic of over 200 levels, EMQX of over 128."""
_MAX_MODULE_ID: Final = 256


class Topics:
    """The full topics of the meter of one API module. The module_id has to pass `is_module_id`."""

    def __init__(self, module_id: str) -> None:
        prefix = f"everest_api/1/powermeter/{module_id}"
        self.start: Final = f"{prefix}/e2m/start_transaction"
        self.stop: Final = f"{prefix}/e2m/stop_transaction"
        self.heartbeat: Final = f"{prefix}/e2m/heartbeat"
        self.values: Final = f"{prefix}/m2e/powermeter_values"
        self.key: Final = f"{prefix}/m2e/public_key_ocmf"
        self.check: Final = f"{prefix}/m2e/communication_check"


def is_module_id(text: str) -> bool:
    """Return whether a text may be a module_id: one level of a topic, printable, at most 256 characters.

    A space at either end is refused too, because that mistake is invisible.
    """
    is_printable = text.isprintable() and text == text.strip()
    return 0 < len(text) <= _MAX_MODULE_ID and is_printable and not {*text} & {*"/+#"}


def is_reply_topic(text: str) -> bool:
    """Return whether a reply may be published on a topic that a client chose.

    A broker closes the connection for wildcards, NUL, control characters, lone surrogates and non-characters (MQTT 5,
    1.5.4 and 3.3.2.1). Topics that begin with ``$`` are its own.
    """
    is_text = text.isprintable() and not text.startswith("$") and not {*text} & {*"+#"}
    return is_text and 0 < len(text.encode()) <= MAX_TOPIC_BYTES and text.count("/") < MAX_TOPIC_LEVELS
