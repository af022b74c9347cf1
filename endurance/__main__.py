"""The command behind `make endurance`: thousands of runs on all cores, and a command line that replays a failure."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from typing import Final

from endurance.command_line import COUNT, SEED, verdict
from endurance.knobs import KNOWN, differences
from endurance.plan import KNOBS, SESSIONS_IN_A_RUN, Plan, make
from endurance.running import outcome_of, outcomes
from endurance.shrink import from_text, shrunk, to_text
from iem_dcr.errors import ConfigError

PROGRESS_PERIOD_S: Final = 5.0
EXIT_BROKEN: Final = 1
EXIT_USAGE: Final = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="make endurance", description=__doc__)
    parser.add_argument("--sessions", type=COUNT, default=5000, help="minimum number (%(default)s)")
    parser.add_argument("--seed", type=SEED, default=1, help="of the first run; the others follow (%(default)s)")
    parser.add_argument(
        "--knobs", choices=KNOBS, default=KNOWN, metavar="KNOBS", help="all, known, or one (%(default)s)"
    )
    parser.add_argument("--keep", default="", help="steps to replay, as a failure prints them")
    parser.add_argument("--workers", type=COUNT, default=os.cpu_count() or 1, help="processes (%(default)s)")
    options = parser.parse_args(arguments)
    if not options.keep:
        runs = -(-options.sessions // SESSIONS_IN_A_RUN)
        return _run_many(range(options.seed, options.seed + runs), options.workers, options.knobs)
    plan = make(options.seed, knobs=options.knobs)
    try:
        return _replay(plan.only(from_text(options.keep, plan)))
    except ConfigError as error:
        print(f"make endurance: {error}", file=sys.stderr)
        return EXIT_USAGE


def _replay(plan: Plan) -> int:
    """Carry out one run and print it step by step."""
    print(f"seed {plan.seed}: {plan.kind}, {'with' if plan.journal else 'without'} a journal, host at {plan.host}")
    for name, value in differences(plan.options):
        print(f"  knob {name}={value}")
    for session in plan.sessions:
        for step in session.steps:
            print(f"session {session.number} {step}")
    return verdict(outcome_of(plan, print).broken)


def _run_many(seeds: range, workers: int, knobs: str) -> int:
    total: Counter[str] = Counter()
    began_s = reported_s = time.monotonic()
    done, failed = 0, None
    for done, outcome in enumerate(outcomes(seeds, workers, knobs), start=1):
        total += outcome.counts
        if outcome.broken:
            failed = outcome
            break
        if time.monotonic() - reported_s >= PROGRESS_PERIOD_S:
            reported_s = time.monotonic()
            print(f"{done * SESSIONS_IN_A_RUN} of {len(seeds) * SESSIONS_IN_A_RUN} sessions", flush=True)
    for name, count in sorted(total.items()):
        print(f"{count:>10}  {name}")
    sessions, took_s = done * SESSIONS_IN_A_RUN, time.monotonic() - began_s
    rate = f"{sessions / max(took_s, 0.001):.0f} a second"
    print(f"{sessions} sessions in {took_s:.0f} s with {workers} processes: {rate}")
    if failed is None:
        return 0
    for promise in failed.broken:
        print(f"BROKEN by seed {failed.seed}: {promise}")
    kept = shrunk(make(failed.seed, knobs=knobs), lambda shorter: bool(outcome_of(shorter).broken))
    replay = f"KEEP='{to_text(kept)}'" if kept else f"SESSIONS={SESSIONS_IN_A_RUN}"
    print(f"make endurance KNOBS={knobs} SEED={failed.seed} {replay}")
    return EXIT_BROKEN


if __name__ == "__main__":
    sys.exit(main())
