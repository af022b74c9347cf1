"""Thousands of sessions in virtual time: no promise is broken, every event occurs, and a failure can be replayed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from endurance.__main__ import main
from endurance.deliberate import FAULTS, Deliberate
from endurance.invariants import broken
from endurance.knobs import ALL, KNOWN, differences
from endurance.plan import KNOBS, SESSIONS_IN_A_RUN, Plan, SessionPlan, Step, make, start, step, stop, trap
from endurance.running import EVERY_KIND, MORE_KINDS, Outcome, carry_out, counted, outcome_of
from endurance.shrink import from_text, shrunk, to_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from endurance.world import World

ROOT = Path(__file__).resolve().parents[1]
PARTS = 8
RUNS = 5
"""Runs of each part: 8 x 5 runs of 25 sessions are 1,000. The first part varies only the known knobs."""


@pytest.mark.parametrize("part", range(PARTS))
def test_a_thousand_sessions_break_no_promise(part: int) -> None:
    counts: Counter[str] = Counter()
    knobs = ALL if part else KNOWN
    for seed in range(part * RUNS, (part + 1) * RUNS):
        outcome = outcome_of(make(seed, knobs=knobs))
        assert outcome.broken == (), f"make endurance KNOBS={knobs} SEED={seed} SESSIONS={SESSIONS_IN_A_RUN}"
        counts += outcome.counts
    assert counts["sessions"] == RUNS * SESSIONS_IN_A_RUN
    assert counts["receipts handed over"] > counts["sessions"] / 2


RICH = ((22, 38, 47), 25, KNOWN), ((283, 79), 8, ALL)
"""Seeds whose runs have many kinds of events, the number of their sessions, and their knobs."""


def test_every_event_occurs_and_every_knob_is_changed() -> None:
    missing = {*EVERY_KIND, *MORE_KINDS}
    for seed in range(100):
        missing -= {f"knob {name}" for name, _ in differences(make(seed, 0, ALL).options)}
    for seeds, sessions, knobs in RICH:
        for seed in (*seeds, *range(40)):
            if missing & {*(EVERY_KIND if knobs == KNOWN else MORE_KINDS)}:
                missing -= counted(carry_out(make(seed, sessions, knobs))).keys()
    assert missing == set()


def test_the_name_of_a_knob_changes_that_knob_only() -> None:
    known = make(5)
    for name in set(KNOBS) - {"known", ALL}:
        plan = make(5, knobs=name)
        changed = {each for each, value in plan.options.as_json().items() if value != known.options.as_json()[each]}
        assert changed <= {name}
        assert changed or plan.sessions != known.sessions or name in ("idle_end", "receipt_while_signing")


def once(knobs: str, seed: int, **sessions: tuple[float, *tuple[Step, ...]]) -> Plan:
    """Return the meter, process and latencies of a seed with these sessions, each a length and its steps."""
    plans = tuple(SessionPlan(int(number[1:]), length_s, (*steps,)) for number, (length_s, *steps) in sessions.items())
    return replace(make(seed, 0, knobs), sessions=plans)


ONCE_BROKEN = {
    "E was answered 2xx while a current flowed, and B destroyed what went on": once(
        "all", 2080,
        s23=(6.0, start(0.0, 30), step(0.0, "wire_fault", kind="garbage", method="POST", node="/receipt", count=20),
             start(2.4, 31)),
    ),
    "the receipt came before the journal could be read, and stayed without an owner": once(
        "all", 0,
        s11=(6.0, start(1.5, 12), stop(3.328, 12)),
        s12=(12.0, start(0.0, 14), trap("GET /receipt", step(0.0, "kill", away_s=2.0)),
             step(5.9338, "disk_fails", trouble="broken", for_s=40.0), stop(6.2416, 14, "stop_if_begun")),
    ),
    "commands that waited for a closed journal were never answered": once(
        "unreadable", 1,
        s12=(12.0, start(0.0, 16), step(11.6378, "disk_fails", trouble="silent", for_s=15.0),
             step(11.7378, "restart", away_s=0.3)),
        s13=(12.0, start(0.0, 17)),
    ),
    "the clock leapt before B, and the process that had seen it ended": once(
        "all", 5241,
        s22=(25.0,),
        s24=(6.0, start(0.0, 29), trap("GET /metervalue", step(0.003, "shift_clock", by_s=3600.0)),
             step(2.4054, "restart", away_s=0.1), stop(3.5362, 29)),
    ),
    "ended by hand, and B overwrote the receipt before it was shown": once(
        "all", 20261353,
        s16=(12.0, step(0.9947, "cut_power", off_s=10.0, boot_s=12.0, open_at_power_cut="running")),
        s17=(12.0, start(0.0, 20), trap("GET /receipt", step(0.0, "network_swallows", for_s=12.0)),
             step(16.3709, "end_by_hand")),
        s18=(25.0, start(0.0, 21), stop(20.0, 21)),
    ),
    "another meter answered E, and nothing sent it again once the stop was over": once(
        "all", 50031,
        s22=(12.0,),
        s24=(12.0, start(0.0, 30), stop(3.6472, 30, "stop_if_begun"), step(5.5707, "swap_meters", away_s=12.0)),
    ),
    "the clock leapt before B, and live values without TM did not show it": once(
        "all", 55043,
        s22=(6.0,),
        s24=(25.0, start(0.0, 31), trap("GET /metervalue", step(0.0, "shift_clock", by_s=-30.0)), stop(13.5323, 31)),
    ),
    "a B without an answer ran on at a meter that was away when its id was stopped": once(
        "all", 57310,
        s12=(6.0, trap("POST /receipt", step(0.0, "cut_power", off_s=2.0, boot_s=3.0, open_at_power_cut="running")),
             start(2.0, 18), step(3.2049, "swap_meters", away_s=12.0), stop(4.8, 18)),
    ),
    "the clock leapt twice": once(
        "known", 2084,
        s23=(6.0, trap("POST /user", step(0.004, "shift_clock", by_s=-7200.0))),
        s24=(6.0, start(0.0, 29), step(2.3284, "shift_clock", by_s=3600.0), stop(4.8, 29)),
    ),
    "a meter that shows no XT was taken for an idle one": once(
        "all", 1187,
        s0=(6.0, start(0.0, 1), step(4.6086, "values_freeze", for_s=3.0)),
        s1=(12.0, step(0.0, "meter_in_error", for_s=3.7571), start(1.2, 3)),
    ),
    "an unknown id got another transaction's receipt while the disk was in trouble": once(
        "known", 187,
        s13=(6.0, start(0.5, 15), step(1.8509, "restart", away_s=5.0),
             step(2.4015, "network_is_slow", by_s=0.2, for_s=10.0)),
        s14=(6.0, step(2.4, "stop", transaction_id="T-never")),
    ),
    "E ended a transaction that frozen values did not show, before the journal was read": once(
        "all", 3915,
        s20=(12.0, step(0.0, "values_freeze", for_s=60.0)),
        s22=(12.0, start(0.0, 45), step(0.89, "disk_fails", trouble="broken", for_s=40.0),
             step(0.99, "restart", away_s=0.3)),
        s23=(6.0, start(0.0, 47)),
    ),
    "ended by hand, and B spoiled its signature before the journal was read": once(
        "all", 931,
        s23=(12.0, start(0.0, 47), step(7.1443, "disk_fails", trouble="broken", for_s=15.0),
             step(7.2443, "kill", away_s=0.3), step(19.1316, "end_by_hand")),
        s24=(6.0, start(0.0, 49)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ONCE_BROKEN)
def test_sessions_that_once_broke_a_promise_keep_it(what: str) -> None:
    assert broken(carry_out(ONCE_BROKEN[what])) == []


# --- the same seed, the same run ---


def fingerprint(world: World) -> str:
    """Return a digest of all answers, transactions and values, without signatures, which are random."""
    answers = [
        (call.command, call.transaction_id, call.asked_s, call.answered_s, (call.tuple_text or "").rpartition("|")[0])
        for call in world.calls
    ]
    transactions = [(truth.begun_s, truth.closed_s, truth.lost, truth.transaction_id) for truth in world.truths]
    text = repr((answers, transactions, world.energies, sorted(world.counts.items())))
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprints() -> list[str]:
    return [fingerprint(carry_out(make(seed, 4))) for seed in (3, 4, 7)]


def test_a_seed_is_the_same_run_in_every_process() -> None:
    here = fingerprints()
    assert len(set(here)) == len(here)
    for hash_seed in ("1", "2"):
        elsewhere = subprocess.run(
            [sys.executable, "-c", "from tests.test_endurance import fingerprints; print(*fingerprints())"],
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


def test_a_failing_run_is_reported_shortened_and_replayed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_this_process(seeds: range, _workers: int, knobs: str) -> Iterator[Outcome]:
        return (outcome_of(make(seed, knobs=knobs)) for seed in seeds)

    monkeypatch.setattr("endurance.__main__.outcomes", in_this_process)
    with fault("remembered_under_the_id_before").applied():
        assert main(["--seed", "1004", "--sessions", "75"]) == 1
        *_, replay = capsys.readouterr().out.splitlines()
        written = re.fullmatch(r"make endurance KNOBS=known SEED=(\d+) KEEP='([^']+)'", replay)
        assert written is not None
        assert main(["--seed", written[1], "--keep", written[2]]) == 1
        output = capsys.readouterr().out
    assert "BROKEN: " in output
    steps = from_text(written[2], make(int(written[1])))
    assert to_text(steps) == written[2]
    assert output.count("session ") == len(steps) <= 6
    assert main(["--seed", written[1], "--keep", written[2]]) == 0
    assert "Nothing is broken." in capsys.readouterr().out


def test_a_broken_promise_is_found_at_the_end_of_its_session() -> None:
    plan = make(1000)
    with fault("receipt_is_changed").applied():
        world = carry_out(plan)
    assert world.problems != []
    assert len(world.tasks_left) < len(plan.sessions)
    assert set(world.problems) <= set(broken(world))


def test_the_time_without_a_broker_is_added_to_the_deadline() -> None:
    world = carry_out(make(3, 2))
    call = next(call for call in world.calls if call.ok and call.command == "start")
    assert call.asked_s is not None
    call.answered_s, call.broker_away_s = call.asked_s + 45.0, 20.0
    assert broken(world) == []
    call.broker_away_s = 10.0
    assert [sentence for sentence in broken(world) if "was answered after 45.0 s" in sentence]


def test_shortening_keeps_only_the_needed_steps() -> None:
    plan = make(7)
    needed = {7, 8, 30}
    every_step = [step for session in plan.sessions for step in session.steps]

    def is_kept(shorter: Plan) -> bool:
        left = [step for session in shorter.sessions for step in session.steps]
        return all(any(step is every_step[number] for step in left) for number in needed)

    assert shrunk(plan, is_kept) == (7, 8, 30)
    assert [session.number for session in plan.only(needed).sessions if session.steps] != []


def test_shortening_is_bounded() -> None:
    plan, runs = make(7), iter(range(100))
    assert shrunk(plan, lambda _: next(runs) > 50, most_runs=10) == tuple(range(plan.step_count))
    assert next(runs) == 10


@pytest.mark.parametrize(
    ("text", "problem"),
    [("4:0", "is not of the form"), ("0-1", "is not of the form"), ("0,999999", "has no step")],
)
def test_the_steps_to_keep_are_checked(text: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "1", "--keep", text]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--sessions", "0"], ["--sessions", "many"], ["--seed", "-1"], ["--knobs", "some"]]
)
def test_wrong_arguments_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_command_makes_runs_in_processes(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--sessions", "50", "--seed", "3", "--workers", "2"]) == 0
    output = capfd.readouterr().out
    assert "50 sessions in" in output
    assert "receipts handed over" in output
