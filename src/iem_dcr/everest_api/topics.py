"""The topics of EVerest's power meter API, version 1, and what may stand in one.

The addresses are those of EVerest's AsyncAPI document of `powermeter_API`; ``e2m`` is from EVerest to the meter,
``m2e`` from the meter to EVerest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

READY_BEACON: Final = "everest_api/ready_beacon"
"""EVerest publishes on it when it has started."""
QUERY_MODULES: Final = "everest_api/query-modules/powermeter"
"""A question on it is answered by every power meter API there is."""

MAX_TOPIC_BYTES: Final = 1024
MAX_TOPIC_LEVELS: Final = 100
"""mosquitto closes the connection of a client that publishes on a topic of more than 200 levels, EMQX one of 128."""

_LONGEST_TOPIC: Final = 16_000
"""Characters; MQTT allows 65,535 bytes."""

_PREFIX: Final = "everest_api/1/powermeter"


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one meter, in full.

    Args:
        module_id: of the API module in EVerest's configuration; has to pass `is_module_id`.
    """

    module_id: str

    @property
    def start(self) -> str:
        """Requests to begin a transaction."""
        return f"{_PREFIX}/{self.module_id}/e2m/start_transaction"

    @property
    def stop(self) -> str:
        """Requests to end a transaction."""
        return f"{_PREFIX}/{self.module_id}/e2m/stop_transaction"

    @property
    def heartbeat(self) -> str:
        """A rising number, normally every second."""
        return f"{_PREFIX}/{self.module_id}/e2m/heartbeat"

    @property
    def values(self) -> str:
        """Live values."""
        return f"{_PREFIX}/{self.module_id}/m2e/powermeter_values"

    @property
    def key(self) -> str:
        """The public key."""
        return f"{_PREFIX}/{self.module_id}/m2e/public_key_ocmf"

    @property
    def check(self) -> str:
        """Signs that the meter can be reached."""
        return f"{_PREFIX}/{self.module_id}/m2e/communication_check"


def is_module_id(text: str) -> bool:
    """Tell whether a text may be a module_id: one level of a topic, printable, at most 256 characters.

    A space at an end is refused as well: it would be a mistake that cannot be seen.
    """
    return (
        0 < len(text) <= 256 and text.isprintable() and text == text.strip() and not any(sign in text for sign in "/+#")
    )


def is_reply_topic(text: str) -> bool:
    """Tell whether an answer may be published on a topic that somebody else chose.

    No wildcards, nothing that is not printable (NUL, control characters, lone surrogates and non-characters let a
    broker close the connection, MQTT 5 section 1.5.4), none of the broker's own (``$``), not too long or too deep.
    """
    return (
        0 < len(text) <= MAX_TOPIC_BYTES
        and text.isprintable()
        and not text.startswith("$")
        and "+" not in text
        and "#" not in text
        and len(text.encode()) <= MAX_TOPIC_BYTES
        and text.count("/") < MAX_TOPIC_LEVELS
    )


def can_be_published(topic: str) -> bool:
    """Tell whether no broker will take a topic for a reason to close the connection (MQTT 5, 1.5.4 and 4.7)."""
    return 0 < len(topic) <= _LONGEST_TOPIC and topic.isprintable() and "+" not in topic and "#" not in topic
