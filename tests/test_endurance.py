"""Sessions by the thousand under virtual time: no promise is broken, everything happens, and a failure is replayed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from endurance.__main__ import GROWS_AT_MOST_KIB, WARM_AFTER_RUNS, main
from endurance.counts import EVERY_KIND, MORE_KINDS, counted
from endurance.deliberate import FAULTS, Deliberate
from endurance.invariants import broken
from endurance.knobs import ALL, KNOWN
from endurance.plan import KNOBS, SESSIONS_IN_A_RUN, make
from endurance.running import Outcome, broken_promises, make_runs
from endurance.shrink import from_text, shrunk, to_text
from endurance.world import World, carry_out
from iem_dcr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PARTS = 8
RUNS = 10
"""Of each part: 8 x 10 runs of 25 sessions are 2,000. In the first part only what is known of meters is turned."""

RICH = (0, 1, 2, 3, 4, 7, 18, 60)
"""Seeds whose runs have much in them, so that little is to be run to see everything."""


@pytest.mark.parametrize("part", range(PARTS))
def test_two_thousand_sessions_break_no_promise(part: int) -> None:
    counts: Counter[str] = Counter()
    knobs = ALL if part else KNOWN
    for seed in range(part * RUNS, (part + 1) * RUNS):
        promises, happened = broken_promises(make(seed, knobs=knobs))
        assert promises == [], f"make endurance KNOBS={knobs} SEED={seed} SESSIONS={SESSIONS_IN_A_RUN}"
        counts += happened
    assert counts["sessions"] == RUNS * SESSIONS_IN_A_RUN
    assert counts["receipts handed over"] > counts["sessions"] / 2


def test_everything_happens() -> None:
    """In the runs above there is each kind of thing that can happen; a few of them have it all."""
    missing = set(EVERY_KIND)
    for seed in dict.fromkeys([*RICH, *range(PARTS * RUNS)]):
        missing -= counted(carry_out(make(seed))).keys()
        if not missing:
            break
    assert missing == set()


def test_with_all_knobs_every_knob_is_turned_and_every_trouble_comes() -> None:
    missing = set(MORE_KINDS)
    for seed in range(PARTS * RUNS):
        plan = make(seed, sessions=6, knobs=ALL)
        missing -= counted(carry_out(plan)).keys()
        if not missing:
            break
    assert missing == set()


def test_one_knob_is_turned_by_its_name_and_nothing_else_is() -> None:
    known = make(5)
    for name in set(KNOBS) - {"known", ALL}:
        plan = make(5, knobs=name)
        changed = {each for each, value in plan.options.as_json().items() if value != known.options.as_json()[each]}
        assert changed <= {name}
        assert changed or plan.sessions != known.sessions or name in ("idle_end", "receipt_while_signing")


@pytest.mark.parametrize(
    ("knobs", "seed", "kept"),
    [
        ("all", 2080, "23:0-1,3"),  # E was answered 2xx while a current flowed, and B destroyed what went on
        ("all", 0, "11:3-4;12:0-3"),  # the receipt came before the journal could be read, and was nobody's for good
        ("unreadable", 1, "12:0,2-3;13:0"),  # a journal that was closed left those who waited for it waiting
        ("all", 5241, "22:;24:0-1,3-4"),  # the clock leapt before B, and nobody was there any more who had seen it
        ("all", 5251, "23:3;24:0-2"),  # the same while live values stood still, which made the leap look longer
        ("all", 20261353, "16:2;17:0-1,5;18:1,3"),  # ended by hand, and B overwrote the receipt before it was shown
        ("all", 31053, "23:4-6;24:0-1"),  # B went to a meter that had come back in the second since it was looked at
        ("all", 50031, "22:;24:0,2-3"),  # another meter answered E, and nothing sent it again once the stop was over
        ("all", 55043, "22:;24:0-1,5"),  # the clock leapt before B, and live values without TM did not show it
        ("all", 57310, "12:1-4"),  # a B without an answer ran on at a meter that was away when its id was stopped
        ("all", 59021, ""),  # the last receipt was one that the node before had shown late, known to the journal
        ("known", 2084, "23:2;24:1-3"),  # the clock leapt twice
        ("all", 1187, "0:0,5;1:0-1"),  # a meter that shows no XT was taken for an idle one
        ("known", 187, "13:1-3;14:1"),  # an unknown id got another transaction's receipt while the disk was in trouble
    ],
)
def test_what_broke_a_promise_once_does_not_again(knobs: str, seed: int, kept: str) -> None:
    plan = make(seed, knobs=knobs)
    assert broken(carry_out(plan.only(from_text(kept, plan)) if kept else plan)) == []


# --- the same seed, the same run ---


def fingerprint(world: World) -> str:
    """Digest of everything that was said and done, without what a key makes at random."""
    told = [
        (call.command, call.transaction_id, call.asked_s, call.answered_s, (call.tuple_text or "").rpartition("|")[0])
        for call in world.calls
    ]
    done = [
        (truth.begun_s, truth.closed_s, truth.lost, truth.transaction_id)
        for unit in world.units
        for truth in unit.truths
    ]
    text = repr((told, done, world.energies, sorted(world.counts.items())))
    return hashlib.sha256(text.encode()).hexdigest()


FINGERPRINTS = """
from endurance.plan import make
from endurance.world import carry_out
from tests.test_endurance import fingerprint
print(*(fingerprint(carry_out(make(seed))) for seed in (3, 4, 5, 7)))
"""


def test_a_seed_is_the_same_run_every_time() -> None:
    here = [fingerprint(carry_out(make(seed))) for seed in (3, 4, 5, 7)]
    assert len(set(here)) == len(here)
    for hash_seed in ("1", "2"):
        elsewhere = subprocess.run(
            [sys.executable, "-c", FINGERPRINTS],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert elsewhere.stdout.split() == here


# --- a failure is shortened and replayed ---


def fault(name: str) -> Deliberate:
    return next(each for each in FAULTS if each.name == name)


def test_a_failing_run_is_shortened_and_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    with fault("remembered_under_the_id_before").applied():
        plan = make(1001)
        assert broken(carry_out(plan))
        kept = shrunk(plan, lambda shorter: bool(broken_promises(shorter)[0]))
        text = to_text(kept)
        assert from_text(text, plan) == kept
        assert len(kept) <= 3
        assert sum(len(steps) for steps in kept.values()) <= 6
        assert main(["--seed", "1001", "--keep", text]) == 1
        told = capsys.readouterr().out
    assert "BROKEN: " in told
    assert told.count("session ") == len(kept)
    assert main(["--seed", "1001", "--keep", text]) == 0
    assert "every promise was kept" in capsys.readouterr().out


def test_the_command_tells_of_the_first_run_that_fails_and_how_to_replay_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_this_process(first: int, runs: int, workers: int, knobs: str) -> Iterator[Outcome]:
        del workers
        yield make_runs(range(first, first + runs), knobs)

    monkeypatch.setattr("endurance.__main__.outcomes", in_this_process)
    with fault("remembered_under_the_id_before").applied():
        outcome = make_runs(range(1001, 1004))
        assert (outcome.runs, outcome.seed) == (1, 1001)
        assert outcome.promises
        assert main(["--seed", "1001", "--sessions", "75"]) == 1
        *_, replay = capsys.readouterr().out.splitlines()
        written = re.fullmatch(r"make endurance KNOBS=known SEED=(\d+) KEEP='([^']+)'", replay)
        assert written is not None
        assert main(["--seed", written[1], "--keep", written[2]]) == 1
    assert main(["--seed", written[1], "--keep", written[2]]) == 0


@pytest.mark.parametrize(("grows_kib", "status"), [(GROWS_AT_MOST_KIB, 0), (GROWS_AT_MOST_KIB + 1, 1)])
def test_the_command_fails_where_memory_grows(
    grows_kib: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def grown(_first: int, _runs: int, _workers: int, _knobs: str) -> Iterator[Outcome]:
        for resident_kib in (60_000, 60_000 + grows_kib):
            yield Outcome(WARM_AFTER_RUNS, Counter(), None, (), 1, resident_kib)

    monkeypatch.setattr("endurance.__main__.outcomes", grown)
    assert main(["--sessions", "100"]) == status
    assert ("BROKEN: the memory of worker 1 grows" in capsys.readouterr().out) is bool(status)


def test_a_promise_is_seen_broken_at_the_end_of_the_session_that_breaks_it() -> None:
    plan = make(1000)
    with fault("tidied").applied():
        world = carry_out(plan)
    assert world.broken_early != []
    assert len(world.tasks_left) < len(plan.sessions)
    assert set(world.broken_early) <= set(broken(world))


def test_an_answer_may_be_late_by_as_long_as_the_broker_was_away_and_no_longer() -> None:
    world = carry_out(make(3))
    call = next(call for call in world.calls if call.ok and call.command == "start")
    assert call.asked_s is not None
    call.answered_s, call.broker_away_s = call.asked_s + 45.0, 20.0
    assert broken(world) == []
    call.broker_away_s = 10.0
    assert [sentence for sentence in broken(world) if "was answered after 45.0 s" in sentence]


def test_shortening_keeps_what_is_needed_and_nothing_else() -> None:
    plan = make(7)
    needed = {(3, 0), (3, 1), (11, 1)}

    def is_kept(shorter: object) -> bool:
        left = {session.number: list(session.steps) for session in shorter.sessions}  # type: ignore[attr-defined]
        return all(number in left and plan.sessions[number].steps[step] in left[number] for number, step in needed)

    assert shrunk(plan, is_kept) == {3: (0, 1), 11: (1,)}


def test_shortening_is_bounded() -> None:
    runs = 0

    def never_shorter(_: object) -> bool:
        nonlocal runs
        runs += 1
        return False

    plan = make(7)
    assert shrunk(plan, never_shorter, most_runs=10) == plan.keeps_all()
    assert runs == 10


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("4", "is not of the form"),
        ("4:0-", "is not of the form"),
        ("4:0;", "is not of the form"),
        ("99:0", "has no session 99"),
        ("4:99", "has no step 99"),
        ("4:0-999999", "has no step"),
    ],
)
def test_what_is_kept_is_checked(text: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=problem):
        from_text(text, make(1))
    assert main(["--seed", "1", "--keep", text]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--sessions", "0"], ["--sessions", "many"], ["--seed", "-1"], ["--knobs", "some"]]
)
def test_wrong_arguments_are_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_command_makes_runs_in_processes(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--sessions", "50", "--seed", "3", "--workers", "2"]) == 0
    told = capfd.readouterr().out
    assert "50 sessions in" in told
    assert "receipts handed over" in told
