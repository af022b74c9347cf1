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
from typing import TYPE_CHECKING, Any

import pytest

from endurance.__main__ import main
from endurance.calls import start_request
from endurance.deliberate import FAULTS, Deliberate
from endurance.invariants import broken
from endurance.knobs import ALL, KNOWN
from endurance.plan import KNOBS, SESSIONS_IN_A_RUN, Plan, SessionPlan, Step, make, step
from endurance.running import EVERY_KIND, MORE_KINDS, Outcome, carry_out, counted, outcome_of
from endurance.shrink import from_text, shrunk, to_text
from iem_dcr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from endurance.world import World

ROOT = Path(__file__).resolve().parents[1]
PARTS = 8
RUNS = 10
"""Runs of each part: 8 x 10 runs of 25 sessions are 2,000. The first part varies only the known knobs."""

RICH = (22, 38, 47)
"""Seeds whose runs have many kinds of events."""


@pytest.mark.parametrize("part", range(PARTS))
def test_two_thousand_sessions_break_no_promise(part: int) -> None:
    counts: Counter[str] = Counter()
    knobs = ALL if part else KNOWN
    for seed in range(part * RUNS, (part + 1) * RUNS):
        outcome = outcome_of(make(seed, knobs=knobs))
        assert outcome.broken == (), f"make endurance KNOBS={knobs} SEED={seed} SESSIONS={SESSIONS_IN_A_RUN}"
        counts += outcome.counts
    assert counts["sessions"] == RUNS * SESSIONS_IN_A_RUN
    assert counts["receipts handed over"] > counts["sessions"] / 2


def test_every_event_occurs() -> None:
    """Every kind of event occurs in the runs above. A few of them have nearly all."""
    missing = set(EVERY_KIND)
    for seed in dict.fromkeys([*RICH, *range(PARTS * RUNS)]):
        missing -= counted(carry_out(make(seed))).keys()
        if not missing:
            break
    assert missing == set()


def test_with_all_knobs_every_knob_is_changed_and_every_trouble_occurs() -> None:
    missing = set(MORE_KINDS)
    for seed in range(PARTS * RUNS):
        plan = make(seed, sessions=6, knobs=ALL)
        missing -= counted(carry_out(plan)).keys()
        if not missing:
            break
    assert missing == set()


def test_the_name_of_a_knob_changes_that_knob_only() -> None:
    known = make(5)
    for name in set(KNOBS) - {"known", ALL}:
        plan = make(5, knobs=name)
        changed = {each for each, value in plan.options.as_json().items() if value != known.options.as_json()[each]}
        assert changed <= {name}
        assert changed or plan.sessions != known.sessions or name in ("idle_end", "receipt_while_signing")


def start(at_s: float, number: int, card: str | None = None, **fields: Any) -> Step:
    request = start_request(f"T-{number}", card or "") | fields
    return step(at_s, "start", request={name: value for name, value in request.items() if value})


def stop(at_s: float, number: int, what: str = "stop") -> Step:
    return step(at_s, what, transaction_id=f"T-{number}")


def trap(request: str, delay_s: float, what: str, **then: float | str) -> Step:
    method, node = request.split()
    return step(0.0, "set_trap", method=method, node=node, delay_s=delay_s, what=what, then=then)


def once(knobs: str, seed: int, *sessions: SessionPlan) -> Plan:
    """Meter, process and latencies of a seed, and these sessions."""
    return replace(make(seed, 0, knobs), sessions=sessions)


ONCE_BROKEN = {
    "E was answered 2xx while a current flowed, and B destroyed what went on": once(
        "all", 2080,
        SessionPlan(23, 6.0, (
            start(0.0, 30, "0C9DD84F", tariff_text="0,79 EUR/kWh"),
            step(0.0, "wire_fault", kind="garbage", method="POST", node="/receipt", count=20),
            start(2.4000000000000004, 31, "C732463A"),
        )),
    ),
    "the receipt came before the journal could be read, and stayed without an owner": once(
        "all", 0,
        SessionPlan(11, 6.0, (start(1.5, 12, "9CB017C1", tariff_text="0,79 EUR/kWh"), stop(3.3279980613315496, 12))),
        SessionPlan(12, 12.0, (
            start(0.0, 14, "0AD40415"), trap("GET /receipt", 0.0, "kill", away_s=2.0),
            step(5.933828089746026, "disk_fails", trouble="broken", for_s=40.0),
            stop(6.241635343110259, 14, "stop_if_begun"),
        )),
    ),
    "commands that waited for a closed journal were never answered": once(
        "unreadable", 1,
        SessionPlan(12, 12.0, (
            start(0.0, 16, "06FAADB1"), step(11.637759322057388, "disk_fails", trouble="silent", for_s=15.0),
            step(11.737759322057387, "restart", away_s=0.3),
        )),
        SessionPlan(13, 12.0, (start(0.0, 17, "3534CCAE"),)),
    ),
    "the clock leapt before B, and the process that had seen it ended": once(
        "all", 5241,
        SessionPlan(22, 25.0, ()),
        SessionPlan(24, 6.0, (
            start(0.0, 29, "0ED2D231"), trap("GET /metervalue", 0.003, "shift_clock", by_s=3600.0),
            step(2.4054060742721335, "restart", away_s=0.1), stop(3.5361822540475067, 29),
        )),
    ),
    "ended by hand, and B overwrote the receipt before it was shown": once(
        "all", 20261353,
        SessionPlan(16, 12.0, (
            step(0.9947043997203271, "cut_power", off_s=10.0, boot_s=12.0, open_at_power_cut="running"),
        )),
        SessionPlan(17, 12.0, (
            start(0.0, 20, "C002A0B6"),
            trap("GET /receipt", 0.0, "network_swallows", for_s=12.0),
            step(16.370890193807185, "end_by_hand"),
        )),
        SessionPlan(18, 25.0, (start(0.0, 21, "B56FB43D"), stop(20.0, 21))),
    ),
    "another meter answered E, and nothing sent it again once the stop was over": once(
        "all", 50031,
        SessionPlan(22, 12.0, ()),
        SessionPlan(24, 12.0, (
            start(0.0, 30, "41FAC20F", tariff_text="0,79 EUR/kWh"),
            stop(3.6472127306963795, 30, "stop_if_begun"),
            step(5.570704658731263, "swap_meters", away_s=12.0),
        )),
    ),
    "the clock leapt before B, and live values without TM did not show it": once(
        "all", 55043,
        SessionPlan(22, 6.0, ()),
        SessionPlan(24, 25.0, (
            start(0.0, 31, "04A293A1EF"),
            trap("GET /metervalue", 0.0, "shift_clock", by_s=-30.0),
            stop(13.532338797677342, 31),
        )),
    ),
    "a B without an answer ran on at a meter that was away when its id was stopped": once(
        "all", 57310,
        SessionPlan(12, 6.0, (
            trap("POST /receipt", 0.0, "cut_power", off_s=2.0, boot_s=3.0, open_at_power_cut="running"),
            start(2.0, 18, "04A2962050"),
            step(3.2048762203385026, "swap_meters", away_s=12.0),
            stop(4.800000000000001, 18),
        )),
    ),
    "the clock leapt twice": once(
        "known", 2084,
        SessionPlan(23, 6.0, (trap("POST /user", 0.004, "shift_clock", by_s=-7200.0),)),
        SessionPlan(24, 6.0, (
            start(0.0, 29, "E967B703", tariff_text="0,79 EUR/kWh"),
            step(2.328404413314617, "shift_clock", by_s=3600.0),
            stop(4.800000000000001, 29),
        )),
    ),
    "a meter that shows no XT was taken for an idle one": once(
        "all", 1187,
        SessionPlan(0, 6.0, (
            start(0.0, 1, "EAB7B671", tariff_text="0,59 EUR/kWh"),
            step(4.608617803080771, "values_freeze", for_s=3.0),
        )),
        SessionPlan(1, 12.0, (
            step(0.0, "meter_in_error", for_s=3.7570570091533524),
            start(1.2, 3, "44CF7583", tariff_text="0,79 EUR/kWh"),
        )),
    ),
    "an unknown id got another transaction's receipt while the disk was in trouble": once(
        "known", 187,
        SessionPlan(13, 6.0, (
            start(0.5, 15, "E8C39C51"), step(1.8508762095848375, "restart", away_s=5.0),
            step(2.4015390142571853, "network_is_slow", by_s=0.2, for_s=10.0),
        )),
        SessionPlan(14, 6.0, (step(2.4000000000000004, "stop", transaction_id="T-never"),)),
    ),
    "E ended a transaction that frozen values did not show, before the journal was read": once(
        "all", 3915,
        SessionPlan(20, 12.0, (step(0.0, "values_freeze", for_s=60.0),)),
        SessionPlan(22, 12.0, (
            start(0.0, 45, "D8D53612"), step(0.89, "disk_fails", trouble="broken", for_s=40.0),
            step(0.99, "restart", away_s=0.3),
        )),
        SessionPlan(23, 6.0, (start(0.0, 47, "7D79FE5F"),)),
    ),
    "ended by hand, and B spoiled its signature before the journal was read": once(
        "all", 931,
        SessionPlan(23, 12.0, (
            start(0.0, 47, "A1B2667B"), step(7.1443106159372025, "disk_fails", trouble="broken", for_s=15.0),
            step(7.244310615937202, "kill", away_s=0.3), step(19.131596096030457, "end_by_hand"),
        )),
        SessionPlan(24, 6.0, (start(0.0, 49, "5B60D2EE"),)),
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
    return [fingerprint(carry_out(make(seed))) for seed in (3, 4, 7)]


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


def test_a_failing_run_is_shortened_and_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    with fault("remembered_under_the_id_before").applied():
        plan = make(1001)
        assert broken(carry_out(plan))
        kept = shrunk(plan, lambda shorter: bool(outcome_of(shorter).broken))
        text = to_text(kept)
        assert from_text(text, plan) == kept
        assert len(kept) <= 6
        assert main(["--seed", "1001", "--keep", text]) == 1
        output = capsys.readouterr().out
    assert "BROKEN: " in output
    assert output.count("session ") == len(kept)
    assert main(["--seed", "1001", "--keep", text]) == 0
    assert "every promise was kept" in capsys.readouterr().out


def test_the_command_reports_a_failing_run_and_how_to_replay_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_this_process(seeds: range, _workers: int, knobs: str) -> Iterator[Outcome]:
        return (outcome_of(make(seed, knobs=knobs)) for seed in seeds)

    monkeypatch.setattr("endurance.__main__.outcomes", in_this_process)
    with fault("remembered_under_the_id_before").applied():
        assert main(["--seed", "1001", "--sessions", "75"]) == 1
        *_, replay = capsys.readouterr().out.splitlines()
        written = re.fullmatch(r"make endurance KNOBS=known SEED=(\d+) KEEP='([^']+)'", replay)
        assert written is not None
        assert main(["--seed", written[1], "--keep", written[2]]) == 1
    assert main(["--seed", written[1], "--keep", written[2]]) == 0


def test_a_broken_promise_is_found_at_the_end_of_its_session() -> None:
    plan = make(1000)
    with fault("receipt_is_changed").applied():
        world = carry_out(plan)
    assert world.problems != []
    assert len(world.tasks_left) < len(plan.sessions)
    assert set(world.problems) <= set(broken(world))


def test_the_time_without_a_broker_is_added_to_the_deadline() -> None:
    world = carry_out(make(3))
    call = next(call for call in world.calls if call.ok and call.command == "start")
    assert call.asked_s is not None
    call.answered_s, call.broker_away_s = call.asked_s + 45.0, 20.0
    assert broken(world) == []
    call.broker_away_s = 10.0
    assert [sentence for sentence in broken(world) if "was answered after 45.0 s" in sentence]


def test_shortening_keeps_only_the_needed_steps() -> None:
    plan = make(7)
    needed = {7, 8, 30}

    def is_kept(shorter: Plan) -> bool:
        left = [step for session in shorter.sessions for step in session.steps]
        return all(any(step is every_step[number] for step in left) for number in needed)

    every_step = [step for session in plan.sessions for step in session.steps]
    assert shrunk(plan, is_kept) == (7, 8, 30)
    assert [session.number for session in plan.only(needed).sessions if session.steps] != []


def test_shortening_is_bounded() -> None:
    runs = 0

    def never_shorter(_: object) -> bool:
        nonlocal runs
        runs += 1
        return False

    plan = make(7)
    assert shrunk(plan, never_shorter, most_runs=10) == tuple(range(plan.step_count))
    assert runs == 10


@pytest.mark.parametrize(
    ("text", "problem"),
    [("4:0", "is not of the form"), ("0-", "is not of the form"), ("0-999999", "has no step")],
)
def test_the_steps_to_keep_are_checked(text: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=problem):
        from_text(text, make(1))
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
