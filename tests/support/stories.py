"""Stories: what happens at a meter, and what its station gets, in words.

    # an id that was begun here
    open: ended, id [A|'']
        start A; wait 5; stop $1 of A; begun 1 1

A title, with the steps below it. ``[A|'']`` in a title makes a story of each, with ``$1`` in its place; the next is
``$2``. Lines with ``#`` are headings. A step is the name of a method of `Teller` and its words. ``key=value`` words are
options. More words may be added to any step: ``quietly`` if the driver sends no POST, ``silently`` if it sends no
request, ``lively`` if live values go on, and ``2..3`` if the step takes 2 s to less than 3 s. Before a step may stand:
``later 6`` to carry it out in 6 s, while the story goes on; ``upon /user`` to do so once the next POST to that node is
done; ``abandon 6`` to give it up after 6 s.

The first steps may say what is at hand: ``journal``, options of the simulated ``meter``, settings of the ``driver``,
and ``unseen`` if the story begins before the driver has seen a live value.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shlex
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from iem_dcr.driver.timing import now_s
from iem_dcr.journal import pin
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Answer, Fault
from tests.support.bench import CI, Bench, bench, meter_options, request
from tests.support.driving import (
    FOR_GOOD,
    OTHER_SERIAL,
    SPOILED_BY_A_BEGIN,
    begin_by_hand,
    driver_at,
    end_by_hand,
    exchange,
    post,
    process,
    receipt_of,
    run_again,
    session_by_hand,
    start,
    start_fails,
    stop_driver,
    stop_fails,
)
from tests.support.journals import entries, virtual_journal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from iem_dcr.driver import Journal, MeterDriver


@dataclass(frozen=True)
class Story:
    """A story: its title, and its steps."""

    title: str
    steps: tuple[str, ...]

    def __str__(self) -> str:
        return self.title

    async def tell(self, path: Path) -> None:
        """Carry out the steps; ``path`` is where the driver has its journal."""
        given: dict[str, dict[str, Any]] = {}
        steps = [*self.steps]
        while (words := shlex.split(steps[0]))[0] in ("journal", "meter", "driver", "unseen"):
            given[words[0]] = SPOILED_BY_A_BEGIN if words[1:] == ["spoiled"] else _parsed(words[1:])[1]
            del steps[0]
        has_journal = "journal" in given or any("with journal" in step for step in steps)
        async with (
            _warnings() as warnings,
            virtual_journal(path) if has_journal else nullcontext() as journal,
            bench(
                meter_options(**given.get("meter", {})),
                journal=journal if "journal" in given else None,
                **given.get("driver", {}),
            ) as b,
            AsyncExitStack() as stack,
        ):
            b.meter.set_load(0, 0)
            teller = Teller(b, journal, path, stack, warnings)
            if "unseen" not in given:
                await teller.live()
            for step in steps:
                await teller.carry_out(step)
            await teller.end()


def stories(text: str) -> list[Story]:
    """Read stories, as above."""
    found = []
    for title, *lines in (block.splitlines() for block in re.findall(r"^[^\s#].*(?:\n .*)+", text, re.MULTILINE)):
        parts = re.split(r"\[(.*?)\]", title)
        for chosen in product(*(part.split("|") for part in parts[1::2])):
            steps = " ".join(line.strip() for line in lines)
            for number, choice in enumerate(chosen, 1):
                steps = steps.replace(f"${number}", choice)
            parts[1::2] = chosen
            found.append(Story("".join(parts), tuple(step.strip() for step in steps.split(";"))))
    return found


@asynccontextmanager
async def _warnings() -> AsyncIterator[list[str]]:
    """Collect the warnings and errors in the log."""
    lines: list[str] = []
    log, handler = logging.getLogger("iem_dcr"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]  # a handler's purpose
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)


class Teller:
    """Carries out the steps of a story at a bench."""

    def __init__(
        self, b: Bench, journal: Journal | None, path: Path, stack: AsyncExitStack, warnings: list[str]
    ) -> None:
        self.b = b
        self.at: Bench | MeterDriver = b
        self.station = b.station
        self._journal = journal
        self._path = path
        self._stack = stack
        self._keys: dict[str, str] = {}
        self._warnings = warnings
        self._tasks: list[asyncio.Task[None]] = []
        self._upon: list[tuple[str, str]] = []
        self._handle_alone = b.meter.handle
        b.meter.handle = self._handle  # type: ignore[method-assign]  # the meter of this story

    async def carry_out(self, step: str) -> None:
        verb, *words = shlex.split(step)
        before_s, posts, values = now_s(), self.b.posts(), len(self.station.values)
        requests = sum(self.b.meter.request_counts.values())
        try:
            if verb in ("later", "upon", "abandon"):
                await getattr(self, verb)(words[0], shlex.join(words[1:]))
                return
            times = [tuple(map(float, word.split(".."))) for word in words if ".." in word]
            extra = {word for word in words if ".." in word} | {"quietly", "silently", "lively"}
            plain, options = _parsed(word for word in words if word not in extra)
            await getattr(self, verb)(*plain, **options)
            assert "quietly" not in words or self.b.posts() == posts
            assert "silently" not in words or sum(self.b.meter.request_counts.values()) == requests
            assert "lively" not in words or len(self.station.values) - values >= now_s() - before_s - 1
            assert all(least <= now_s() - before_s < most for least, most in times), f"{now_s() - before_s} s"
        except BaseException as error:
            error.add_note(f"in step: {step}")
            raise

    async def end(self) -> None:
        """See that every step was carried out."""
        await asyncio.gather(*self._tasks)
        assert self._upon == []

    async def later(self, seconds: str, step: str) -> None:
        async def wait() -> None:
            await asyncio.sleep(float(seconds))
            await self.carry_out(step)

        self._tasks.append(asyncio.create_task(wait()))

    async def upon(self, node: str, step: str) -> None:
        self._upon.append((node, step))

    async def abandon(self, seconds: str, step: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(float(seconds)):
                await self.carry_out(step)

    def _handle(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Answer a request as the meter does, and begin the steps that wait for it."""
        answer = self._handle_alone(method, path, body)
        begun = [each for each in self._upon if method == "POST" and path.endswith(each[0])]
        for each in begun:
            self._upon.remove(each)
            self._tasks.append(asyncio.create_task(self.carry_out(each[1])))
        return answer

    # --- the station ---

    async def start(self, name: str, what: str = "", *said: str, **fields: Any) -> None:
        """Begin a transaction: ``start A``; or ``start A fails WORDS``, or ``unsupported WORDS``.

        All WORDS are in the error. ``{meter}`` is the meter's address.
        """
        if what == "fails":
            self._expect(said, await start_fails(self.at, name, **fields))
        elif what == "unsupported":
            refused = await driver_at(self.at).start_transaction(request(name, **fields))
            assert refused.status is TransactionRequestStatus.NOT_SUPPORTED
            self._expect(said, refused.error)
        else:
            await start(self.at, name, **fields)

    async def stop(self, name: str, what: str = "of", *said: str, TX: str = "") -> None:
        """Stop a transaction and get its receipt: ``stop A``; or ``of B``, ``last``, ``T2``; or ``fails WORDS``.

        A receipt that was returned with its key is returned with the same key again.
        """
        if what == "fails":
            self._expect(said, await stop_fails(self.at, name))
            return
        stopped = await driver_at(self.at).stop_transaction(name)
        receipt, value = receipt_of(stopped), stopped.signed_meter_value
        assert value is not None
        assert self._keys.get(receipt.text, "") in ("", value.public_key)
        self._keys[receipt.text] = value.public_key
        assert not TX or receipt.readings[-1].TX == TX
        if what == "of":
            assert receipt.identification == f"04AB{said[0] if said else name}"
        elif what == "last":
            assert receipt.text == self.b.meter.signed[-1].text
        else:
            assert receipt.pagination == what

    def _expect(self, said: tuple[str, ...], error: str) -> None:
        for words in said:
            assert words.replace("{meter}", self.b.driver.address) in error

    async def live(self) -> None:
        await self.b.until_live()

    async def wait(self, seconds: str) -> None:
        await asyncio.sleep(float(seconds))

    async def mute(self, seconds: str) -> None:
        """Wait, while no live value is published."""
        count = len(self.station.values)
        await asyncio.sleep(float(seconds))
        assert len(self.station.values) == count

    async def halt(self) -> None:
        """Stop the process of the driver."""
        await stop_driver(self.b)

    async def rerun(self) -> None:
        """End the run of the driver, and begin another."""
        await run_again(self.b)

    async def restart(self, *_with_journal: str, **settings: Any) -> None:
        """Stop the process of the driver, and begin another."""
        self.at, self.station = await self._stack.enter_async_context(process(self.b, self._journal, **settings))

    # --- the meter ---

    async def hand(self, what: str, *ID: str) -> None:
        """Have another client ``begin``, ``end`` or do both (``session``)."""
        {"begin": begin_by_hand, "end": end_by_hand, "session": session_by_hand}[what](self.b, *ID)

    async def cut(self, off_s: str, boot_s: str) -> None:
        """Cut the power."""
        self.b.meter.power_cycle(off_s=float(off_s), boot_s=float(boot_s))

    async def post(self, node: str, **body: object) -> None:
        """Post something behind the driver's back, and forget the request."""
        post(self.b, node, **body)
        self.b.meter.requests.pop()

    async def shift(self, by_s: str) -> None:
        """Set the meter's clock forward."""
        self.b.meter.shift_clock(float(by_s))

    async def exchange(self, serial: str = OTHER_SERIAL) -> None:
        exchange(self.b, serial)

    async def load(self, current_A: str) -> None:
        if current_A == "0":
            self.b.meter.clear_load()
        else:
            self.b.meter.set_load(float(current_A), 400)

    async def configure(self, **options: Any) -> None:
        self.b.meter.configure(**options)

    async def fault(self, kind: str, *where: str, **options: Any) -> None:
        """Add a fault: ``fault refuse POST /receipt count=3``; ``count=0`` means for good."""
        self.b.meter.faults.add(_fault(kind, *where, **options))

    async def pin(self, serial: str) -> None:
        """Accept another meter, as ``iem-dcr receipts pin`` does."""
        pin(self._path, serial, [self.b.driver.address])

    async def heal(self) -> None:
        self.b.meter.faults.clear()

    # --- what has come of it ---

    async def runs(self) -> None:
        assert self.b.meter.running

    async def idle(self) -> None:
        assert not self.b.meter.running

    async def provisioned(self) -> None:
        """See that the meter has its charge point and the right time."""
        assert json.loads(self.b.meter.handle("GET", "/counter/v1/ocmf/gw").body)["CI"] == CI
        value = self.b.driver.value
        assert value is not None
        assert value.TM is not None
        assert abs((value.TM.instant - self.b.wall()).total_seconds()) <= 1

    async def tariff(self, text: str) -> None:
        assert self.b.meter.as_json()["TT"] == text

    async def keys(self, count: str) -> None:
        """Compare the number of public keys that were published, each once."""
        assert len(set(self.station.keys)) == len(self.station.keys) == int(count)

    async def raised(self, count: str, kind: str = "") -> None:
        """Compare the number of errors raised at the station, all with this word in type or message."""
        errors = [f"{error.type} {error.message}" for error in self.station.raised]
        assert len(errors) == int(count)
        assert all(kind in error for error in errors)

    async def logged(self, count: str, *words: str) -> None:
        """Compare the number of warnings and errors that have all these words; ``some`` is any number but 0."""
        found = [line for line in self._warnings if all(word in line for word in words)]
        assert found if count == "some" else len(found) == int(count), found

    async def calm(self) -> None:
        assert not self.station.active

    async def troubled(self) -> None:
        assert self.station.active

    async def begun(self, begun: str, ended: str) -> None:
        """Compare how many transactions the meter has begun and ended."""
        assert (self.b.meter.state.begun, self.b.meter.state.ended) == (int(begun), int(ended))

    async def posts(self, *nodes: str) -> None:
        """Compare all that was posted."""
        assert self.b.posts() == [*nodes]

    async def posted(self, *nodes: str) -> None:
        """Compare what was posted last."""
        assert self.b.posts()[-len(nodes) :] == [*nodes]

    async def asked(self, *requests: str) -> None:
        """Compare the last requests: ``asked 'GET /gw' 'POST /receipt'``."""
        last = [f"{request.method} {request.node}" for request in self.b.meter.requests]
        assert last[-len(requests) :] == [*requests]

    async def requests(self, method: str, node: str, least: str, most: str = "") -> None:
        """Compare the number of requests so far."""
        count = self.b.meter.request_counts[method, node]
        assert int(least) <= count <= int(most or least), count

    async def shows(self, words: str) -> None:
        """Look for words in the receipt that was signed last."""
        assert words in self.b.meter.signed[-1].text

    async def signed(self, *owners: str) -> None:
        """Compare the IDs in the receipts that the meter has signed; ``-`` is none."""
        assert [record.ID for record in self.b.meter.signed] == ["" if owner == "-" else owner for owner in owners]

    async def kept(self, *receipts: str) -> None:
        """Compare the journal: ``kept T1:A T2:`` is T1 delivered for A, and T2 found, without an owner."""
        found = [(entry.pagination, entry.transaction_id, entry.found) for entry in entries(self._path)]
        expected = (word.partition(":") for word in receipts)
        assert found == [(PG, name, not name) for PG, _, name in expected]


def _fault(kind: str, *where: str, count: int = 1, **options: Any) -> Fault:
    method, node = ("*", "*", *where)[-2:]
    return Fault(kind, node=node, method=method, count=count or FOR_GOOD, **options)  # type: ignore[arg-type]


def _parsed(words: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the words without options, and the options; a value is JSON or a text."""
    plain: list[str] = []
    options: dict[str, Any] = {}
    for word in words:
        name, is_option, text = word.partition("=")
        if not is_option or not name.isidentifier():
            plain.append(word)
            continue
        try:
            value = json.loads(text)
            options[name] = tuple(value) if isinstance(value, list) else value
        except ValueError:
            options[name] = text
    return plain, options
