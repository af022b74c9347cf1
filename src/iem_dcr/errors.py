"""Every exception of the project, in one tree.

::

    IemDcrError
    ├── ConfigError              ours: a setting is wrong; nothing was sent to any meter
    ├── RequestError             the station's: a request that must not reach the meter
    ├── ReceiptError             a text that is no OCMF tuple, or a key that is none
    ├── JournalError             the journal of receipts cannot be opened, read or written
    ├── RecordingError           a meter's answers cannot be kept in that folder
    ├── InstallationError        the EVerest module cannot be installed, removed or looked at
    └── MeterError               the meter's: which meter, which node, what to do
        ├── MeterUnreachableError    the request did not leave: it was certainly not acted on
        ├── MeterTimeoutError        no complete answer in time
        ├── AnswerLostError          the connection broke after the request went out
        ├── RefusedError             the meter said no, with a status
        └── NotUnderstoodError       an answer that is none of this meter's

Who handles what: a ``ConfigError`` ends the program before it starts; a ``RequestError`` becomes the answer to
the one who asked; a ``MeterError`` is the driver's to survive, and `MeterError.may_have_acted` is what decides
whether a POST may go out again. ``ReceiptError`` is met by whoever reads receipts that are not from a meter. A
``JournalError`` never keeps a receipt from the station; what it is about stays queued.
"""

from __future__ import annotations


def printable(text: object, *, limit: int = 120) -> str:
    """Make text from outside safe for a log line: no control characters, at most ``limit`` characters.

    What Python does not call printable becomes a space: line ends, escapes, lone surrogates, marks that turn the
    direction of writing.
    """
    clean = str(text)
    if not clean.isprintable():
        clean = "".join(character if character.isprintable() else " " for character in clean)
    clean = clean.strip()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def shortened(token: str) -> str:
    """Shorten a user's id for a log line: the first two characters and how many there are.

    An RFID token is personal data. Two characters are enough to find a session in a log, not to find a person.
    """
    return f"{printable(token[:2])}…({len(token)})" if len(token) > 2 else "…"


class IemDcrError(Exception):
    """The root of all errors this project raises on purpose."""


class ConfigError(IemDcrError):
    """One or more settings are wrong. ``problems`` has a line for each, naming key, value and what is expected."""

    def __init__(self, problems: list[str] | tuple[str, ...]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class RequestError(IemDcrError):
    """A request of the station's that cannot be carried out as it is; the message is the reason to give back."""


class ReceiptError(IemDcrError):
    """A text cannot be read as an OCMF tuple, or a key cannot be read as a public key."""


class JournalError(IemDcrError):
    """The journal of receipts cannot be opened, read or written now; the message names its file and what to do."""


class RecordingError(IemDcrError):
    """A meter's answers cannot be kept in a folder; the message goes on from its name, and says what to do."""


class InstallationError(IemDcrError):
    """The EVerest module cannot be installed, removed or looked at; what was there before is there still."""


class MeterError(IemDcrError):
    """A request to a meter did not bring the answer it should have.

    Attributes:
        meter: address of the meter, ``host:port``.
        node: method and node, ``POST /receipt``.
        brief: the message without the meter, for a log line that names it already.
    """

    def __init__(self, meter: str, node: str, what: str) -> None:
        self.meter = meter
        self.node = node
        self.brief = f"{node}: {what}"
        super().__init__(f"meter {meter}, {node}: {what}")

    @property
    def may_have_acted(self) -> bool:
        """Whether the meter may have acted on the request although no proper answer came."""
        return False


class MeterUnreachableError(MeterError):
    """The request did not leave this host whole: no route, refused connection, or no connection in time."""


class MeterTimeoutError(MeterError):
    """The request went out, and no complete answer came within its time."""

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
    """The meter answered with a status that is no success: neither 2xx nor a redirect.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, meter: str, node: str, status: int, text: str = "") -> None:
        self.status = status
        said = f": {printable(text)}" if text else ""
        super().__init__(meter, node, f"refused with status {status}{said}")

    @property
    def may_have_acted(self) -> bool:
        """Only a 4xx says that the request was not acted on; any other status leaves it open."""
        return not 400 <= self.status < 500


class NotUnderstoodError(MeterError):
    """The answer is not what this node of an IEM-DCR answers.

    Attributes:
        path: where in the JSON the answer went wrong, ``RD[1-b:1.8.e].RV``; "" for the answer as a whole.
    """

    def __init__(self, meter: str, node: str, path: str, what: str) -> None:
        self.path = path
        at = f" at {path}" if path else ""
        super().__init__(meter, node, f"answer not understood{at}: {what}. Is there an IEM-DCR at this address?")

    @property
    def may_have_acted(self) -> bool:
        """True: something took the request."""
        return True
