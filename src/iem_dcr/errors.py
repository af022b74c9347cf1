"""Every exception of the project, in one tree.

::

    IemDcrError
    ├── ConfigError              a setting is wrong; nothing was sent to any meter
    ├── RequestError             a request of the station must not reach the meter
    ├── ReceiptError             a text is not an OCMF tuple, or a key is not a public key
    ├── JournalError             the journal of receipts cannot be opened, read or written
    ├── RecordingError           a meter's answers cannot be stored in a folder
    ├── InstallationError        the EVerest module cannot be installed, removed or inspected
    └── MeterError               a request to a meter failed: which meter, which node, what to do
        ├── MeterUnreachableError    the request did not go out: the meter certainly did not act
        ├── MeterTimeoutError        no complete answer in time
        ├── AnswerLostError          the connection broke after the request went out
        ├── RefusedError             the meter answered with an error status
        └── NotUnderstoodError       the answer is not one of this meter

How they are handled: a ``ConfigError`` ends the program before it starts. A ``RequestError`` becomes the answer to the
request. The driver survives every ``MeterError``; `MeterError.may_have_acted` decides whether a POST may be repeated.
Code that reads receipts from other sources than a meter handles ``ReceiptError``. A ``JournalError`` never withholds a
receipt from the station; the write stays queued.
"""

from __future__ import annotations


def printable(text: object, *, limit: int = 120) -> str:
    """Make external text safe for a log line: no control characters, at most ``limit`` characters.

    A character that Python does not call printable becomes a space. This covers line ends, escapes, lone surrogates and
    marks that change the writing direction.
    """
    clean = str(text)
    if not clean.isprintable():
        clean = "".join(character if character.isprintable() else " " for character in clean)
    clean = clean.strip()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def shortened(token: str) -> str:
    """Shorten a user's id for a log line to its first two characters and its length.

    An RFID token is personal data. Two characters are enough to find a session in a log, but not a person.
    """
    return f"{printable(token[:2])}…({len(token)})" if len(token) > 2 else "…"


class IemDcrError(Exception):
    """The root of all errors that this project raises on purpose."""


class ConfigError(IemDcrError):
    """One or more settings are wrong. ``problems`` has a line for each, with key, value and expectation."""

    def __init__(self, problems: list[str] | tuple[str, ...]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class RequestError(IemDcrError):
    """A request of the station is invalid. The message is the reason to return."""


class ReceiptError(IemDcrError):
    """A text cannot be read as an OCMF tuple, or a key cannot be read as a public key."""


class JournalError(IemDcrError):
    """The journal of receipts cannot be opened, read or written now. The message names its file and what to do."""


class RecordingError(IemDcrError):
    """A meter's answers cannot be stored in a folder. The message continues the folder's name and says what to do."""


class InstallationError(IemDcrError):
    """The EVerest module cannot be installed, removed or inspected. The installation is unchanged."""


class MeterError(IemDcrError):
    """A request to a meter failed.

    Attributes:
        meter: address of the meter, ``host:port``.
        node: method and node, ``POST /receipt``.
        brief: the message without the meter, for a log line that already names it.
    """

    def __init__(self, meter: str, node: str, what: str) -> None:
        self.meter = meter
        self.node = node
        self.brief = f"{node}: {what}"
        super().__init__(f"meter {meter}, {node}: {what}")

    @property
    def may_have_acted(self) -> bool:
        """Whether the meter may have acted on the request although it gave no proper answer."""
        return False


class MeterUnreachableError(MeterError):
    """The request did not go out: no route, refused connection, or no connection in time."""


class MeterTimeoutError(MeterError):
    """The request went out, and no complete answer came in time."""

    @property
    def may_have_acted(self) -> bool:
        """True: the request went out."""
        return True


class AnswerLostError(MeterError):
    """The connection broke between request and answer."""

    @property
    def may_have_acted(self) -> bool:
        """True: the request went out."""
        return True


class RefusedError(MeterError):
    """The meter answered with an error status: neither 2xx nor a redirect.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, meter: str, node: str, status: int, text: str = "") -> None:
        self.status = status
        said = f": {printable(text)}" if text else ""
        super().__init__(meter, node, f"refused with status {status}{said}")

    @property
    def may_have_acted(self) -> bool:
        """False for 4xx: the meter did not act. True for any other status."""
        return not 400 <= self.status < 500


class NotUnderstoodError(MeterError):
    """The answer is not one of this node of an IEM-DCR.

    Attributes:
        path: position of the fault in the JSON, ``RD[1-b:1.8.e].RV``; "" for the answer as a whole.
    """

    def __init__(self, meter: str, node: str, path: str, what: str) -> None:
        self.path = path
        at = f" at {path}" if path else ""
        super().__init__(meter, node, f"answer not understood{at}: {what}. Is there an IEM-DCR at this address?")

    @property
    def may_have_acted(self) -> bool:
        """True: a server received the request."""
        return True
