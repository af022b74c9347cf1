"""A recording as a folder: a file for each body, ``index.json``, and a README for whoever opens it.

The folder is there whole or not at all: it is written under another name beside its place, and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iem_dcr import __version__, ocmf
from iem_dcr.bringup import nodes
from iem_dcr.bringup.disguise import Disguise
from iem_dcr.bringup.evidence import tuple_in
from iem_dcr.device import messages
from iem_dcr.errors import ReceiptError, RecordingError
from iem_dcr.meter_time import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from iem_dcr.bringup.nodes import Node
    from iem_dcr.bringup.recorder import Recorded

FORMAT: Final = 1
"""Of index.json."""
INDEX: Final = "index.json"
_MAKES: Final = ("FV", "GV", "MV", "MM", "MF")

_README: Final = """\
# Answers of an IEM-DCR

Recorded by iem-dcr {version} at {recorded}. Each file is the body of an answer, byte for byte; index.json has path,
status and headers of each, and which nodes were not asked and why. The address of the meter is in none of them.

{disguise}
"""
_DISGUISED: Final = """\
Serial numbers, the charge point's id, the user's id, tariff text, keys, and every text or number of a field that is not
known to tell nothing, are pseudonyms of the same shape: the same value is the same pseudonym everywhere in this folder,
and another one in the next recording. Receipts that verified are signed again with a key that was thrown away, in the
form of the meter's own signature, and verify with the key in this folder; others carry numbers that sign nothing.

Kept as they were: times, register values, voltage, current and power, states and error words, kinds of identification,
make, model and firmware version.

Before you hand this folder on, look for what must not be in it: search all files for the serial number on the type
plate, the charge point's id and the last user's id (grep -ri ID FOLDER). Nothing should be found.
"""
_RAW: Final = """\
NOTHING IS DISGUISED in this folder (--raw): it holds serial numbers, the charge point's id, the meter's key and the
last receipt with its user's id, which is personal data. Keep it to yourself.
"""


def check(folder: Path) -> None:
    """See that a recording may become this folder: it is not there, or empty.

    Raises:
        RecordingError: it may not.
    """
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise RecordingError("is there already and no folder: give the name of a new one")
        if folder.is_dir() and any(folder.iterdir()):
            raise RecordingError("is not empty: give the name of a new folder")
        if folder.is_dir() and folder.resolve() == Path.cwd():
            raise RecordingError("is the folder you are in: give the name of a new one")
        if not folder.parent.is_dir():
            raise RecordingError("lies in a folder that is not there: make that first")
    except OSError as error:
        raise RecordingError(f"cannot be looked at: {error.strerror}") from error
    except ValueError as error:
        raise RecordingError("is no name of a folder") from error


def disguised(
    recorded: Sequence[Recorded], address: Iterable[str]
) -> tuple[tuple[Recorded, ...], dict[Node, list[str]]]:
    """Put pseudonyms into a recording.

    Args:
        recorded: as it came.
        address: the meter's, in every way it may be written.

    Returns:
        The recording, and what became of the receipts in each node's answer.

    Raises:
        RecordingError: there is more in the answers than can be disguised.
    """
    disguise = Disguise(address)
    answers = [(one, one.answer) for one in recorded if one.answer is not None]
    # The key comes first: the coordinates in it have a pseudonym of their own.
    for _, answer in sorted(answers, key=lambda pair: pair[0].node is not nodes.PUBLICKEY):
        disguise.learn(answer.body)
        for name, value in answer.headers:
            disguise.learn_header(name, value)
    written: list[Recorded] = []
    receipts: dict[Node, list[str]] = {}
    for one in recorded:
        if one.answer is None:
            written.append(one)
            continue
        headers = tuple((name, disguise.header(name, value)) for name, value in one.answer.headers)
        body = disguise.body(one.answer.body)
        written.append(replace(one, answer=replace(one.answer, headers=headers, body=body)))
        receipts[one.node] = disguise.signatures(one.answer.body)
    return tuple(written), receipts


def write(folder: Path, recorded: Sequence[Recorded], at: datetime, receipts: Mapping[Node, list[str]] | None) -> None:
    """Write a recording.

    Args:
        folder: that `check` has nothing against.
        recorded: with or without pseudonyms.
        at: when it was recorded.
        receipts: what became of the receipts in each answer; None where nothing is disguised.

    Raises:
        RecordingError: it cannot be written; nothing is left behind.
    """
    check(folder)
    folder = folder.resolve()
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}.", dir=folder.parent))
    except OSError as error:
        raise RecordingError(f"cannot be made: {error.strerror}") from error
    try:
        _fill(made, recorded, at, receipts)
        if receipts is not None:  # what is raw stays its owner's
            mask = os.umask(0)
            os.umask(mask)
            made.chmod(0o777 & ~mask)
        made.rename(folder)
    except OSError as error:
        raise RecordingError(f"cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(made)


def _fill(made: Path, recorded: Sequence[Recorded], at: datetime, receipts: Mapping[Node, list[str]] | None) -> None:
    listed = []
    for one in recorded:
        entry: dict[str, object] = {"node": one.node.name, "path": one.node.path}
        if one.answer is None:
            listed.append(entry | {"problem": one.problem})
            continue
        name = _file_name(one)
        (made / name).write_bytes(one.answer.body)
        entry |= {"file": name, "status": one.answer.status, "headers": [list(pair) for pair in one.answer.headers]}
        if receipts is not None and receipts.get(one.node):
            entry["receipts"] = receipts[one.node]
        listed.append(entry)
    recorded_at = rfc3339(at)
    index = {
        "format": FORMAT,
        "tool": f"iem-dcr {__version__}",
        "recorded": recorded_at,
        "disguised": receipts is not None,
        "firmware": _firmware(recorded),
        "nodes": listed,
    }
    (made / INDEX).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    readme = _README.format(
        version=__version__, recorded=recorded_at, disguise=_RAW if receipts is None else _DISGUISED
    )
    (made / "README.md").write_text(readme.rstrip() + "\n", encoding="utf-8")


def _file_name(one: Recorded) -> str:
    """Name a body's file: ``gw.json``, ``transaction-v2.txt``."""
    name = one.node.name.strip("/")
    if one.node in (nodes.TRANSACTION_V1, nodes.TRANSACTION_V2):
        name += "-v2" if one.node is nodes.TRANSACTION_V2 else "-v1"
    try:
        messages.decode(one.answer.body if one.answer else b"")
    except messages.ShapeError:
        return f"{name}.txt"
    return f"{name}.json"


def _firmware(recorded: Sequence[Recorded]) -> dict[str, str]:
    """Return make, model and versions as the last receipt has them."""
    for one in recorded:
        text = tuple_in(one.answer)
        try:
            payload = ocmf.parse(text).payload if text is not None else {}
        except ReceiptError:
            payload = {}
        if payload:
            return {key: value for key in _MAKES if isinstance(value := payload.get(key), str)}
    return {}
