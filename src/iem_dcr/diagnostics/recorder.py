"""Records the answers of a meter's GET nodes, and writes them as a folder.

A folder contains a file for the body of each answer, ``index.json``, and a ``README.md``. It is written under a
temporary name beside its place and then renamed, so it exists completely or not at all.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iem_dcr import __version__
from iem_dcr.device import messages
from iem_dcr.device.client import MeterClient
from iem_dcr.diagnostics import nodes
from iem_dcr.errors import MeterUnreachableError, RecordingError
from iem_dcr.meter_time import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from iem_dcr.device.transport import Answer
    from iem_dcr.diagnostics.nodes import Node, Recorded

TIMEOUT_S: Final = 5.0
FORMAT: Final = 1
"""Version of index.json."""
_README: Final = """\
# Answers of an IEM-DCR

Recorded by iem-dcr {version} at {recorded}. Each file is the body of an answer. index.json has the
path, status and headers of each answer, and says which nodes were not asked and why. No file contains the meter's
address.

{contents}"""
_REDACTED: Final = """\
Serial numbers, the charge point's id, the user's id, tariff text, keys and signatures are replaced by pseudonyms of the
same shape, and so is every other text or number of a field that is not known to be harmless. The same value has the
same pseudonym everywhere in this folder, and another one in the next recording.

**The receipts do not verify.** Their fields are replaced and they are not signed again, so a recording tests parsers,
not signatures.

Not replaced: times, register values, voltage, current, power, states and error words, kinds of identification, make,
model and firmware version.

Before you pass this folder on, check that nothing confidential is left in it. Search all files for the serial number
on the type plate, the charge point's id and the last user's id (grep -ri ID FOLDER). Nothing should be found.
"""
_RAW: Final = """\
NOTHING IS REPLACED in this folder (--raw). It contains serial numbers, the charge point's id, the meter's key and the
last receipt with its user's id, which is personal data. Keep it to yourself.
"""


async def record(host: str, port: int) -> tuple[Recorded, ...]:
    """Read every GET node of a meter once. /metervalue comes first, because it tells whether a transaction is running.

    Raises:
        MeterError: the meter is not reachable.
    """
    async with MeterClient(host, port, timeout_s=TIMEOUT_S, pause_s=nodes.PAUSE_S) as client:
        reader = nodes.NodeReader(client)
        first = await reader.read(nodes.METERVALUE)
        if isinstance(first.error, MeterUnreachableError):
            raise first.error
        return (first, *[await reader.read(node) for node in nodes.ALL[1:]])


def check_folder(folder: Path) -> None:
    """Check that a recording can be written to this folder, which must not exist or must be empty.

    Raises:
        RecordingError: the recording cannot be written there.
    """
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise RecordingError("exists and is not a folder: give the name of a new one")
        if folder.is_dir() and any(folder.iterdir()):
            raise RecordingError("is not empty: give the name of a new folder")
        if folder.is_dir() and folder.resolve() == Path.cwd():
            raise RecordingError("is the current folder: give the name of a new one")
        if not folder.parent.is_dir():
            raise RecordingError("is in a folder that does not exist: make that first")
    except OSError as error:
        raise RecordingError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RecordingError("is not a valid name of a folder") from error


def write_folder(folder: Path, recorded: Sequence[Recorded], at: datetime, *, is_redacted: bool) -> None:
    """Write a recording to a folder that `check_folder` accepts. If it is not redacted, only its owner may read it.

    Raises:
        RecordingError: the folder cannot be written. Nothing is left behind.
    """
    folder = folder.resolve()
    beside = f".{folder.name[:100]}."
    try:
        with tempfile.TemporaryDirectory(prefix=beside, dir=folder.parent, ignore_cleanup_errors=True) as name:
            made = Path(name)
            for file, content in _files(recorded, rfc3339(at), is_redacted=is_redacted).items():
                (made / file).write_bytes(content)
            if is_redacted:
                mask = os.umask(0)
                os.umask(mask)
                made.chmod(0o777 & ~mask)
            made.rename(folder)
    except OSError as error:
        raise RecordingError(f"cannot be written: {error.strerror}") from error


def _files(recorded: Sequence[Recorded], recorded_at: str, *, is_redacted: bool) -> dict[str, bytes]:
    """Return the content of each file of a recording by its name."""
    files: dict[str, bytes] = {}
    listed: list[dict[str, object]] = []
    for one in recorded:
        entry: dict[str, object] = {"node": one.node.name, "path": one.node.path}
        if one.answer is None:
            entry["problem"] = one.problem
        else:
            name = _file_name(one.node, one.answer)
            files[name] = one.answer.body
            entry |= {"file": name, "status": one.answer.status, "headers": one.answer.headers}
        listed.append(entry)
    index = {
        "format": FORMAT,
        "tool": f"iem-dcr {__version__}",
        "recorded": recorded_at,
        "disguised": is_redacted,
        "nodes": listed,
    }
    files["index.json"] = (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode()
    contents = _REDACTED if is_redacted else _RAW
    files["README.md"] = _README.format(version=__version__, recorded=recorded_at, contents=contents).encode()
    return files


def _file_name(node: Node, answer: Answer) -> str:
    """Return the name of a body's file: ``gw.json``, ``transaction-v2.txt``."""
    name = node.name.strip("/")
    if name == "transaction":
        name += "-v2" if node is nodes.TRANSACTION_V2 else "-v1"
    return f"{name}.json" if is_json(answer) else f"{name}.txt"


def is_json(answer: Answer) -> bool:
    """Whether the body of an answer is JSON."""
    try:
        messages.decode(answer.body)
    except messages.ShapeError:
        return False
    return True
