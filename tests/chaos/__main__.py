"""The fault suite: every fault against real servers and real processes, and after each the invariants.

python -m tests.chaos [--rounds 20] [--seed S] [--only "sigkill, two beats"] [--short]
                      [--write docs/explanation/reliability.md]
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import tests.chaos
from tests.chaos.outcome import Outcome
from tests.chaos.perform import learn_undisturbed, perform
from tests.chaos.report import PLACE, last_line, show, write
from tests.chaos.servers import Servers
from tests.chaos.stage import FAULTS, Fault


def main() -> int:
    given = _parser().parse_args()
    if given.write:
        PLACE.around(given.write)  # better now than at the end
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # So that all that was started is ended. Hypothesis would take any other exception for a finding.
        signal.signal(signum, signal.default_int_handler)
    chosen = choose([phrase.strip() for phrase in given.only.lower().split(",")], short=given.short)
    if not chosen:
        sys.stderr.write(f"No fault is named like {given.only!r}.\n")
        return 2
    sys.stderr.write(f"chaos: {len(chosen)} faults, seed {given.seed}\n")
    outcomes = perform_all(chosen, given.seed, given.rounds)
    show(outcomes, given.seed)
    if given.write:
        write(given.write, outcomes, given.seed, given.rounds)
    broken = [outcome.name for outcome in outcomes if outcome.broken]
    for name in broken:
        sys.stdout.write(f"BROKEN: {name}\n")
    sys.stdout.write(last_line(outcomes) + "\n")
    return int(bool(broken))


def choose(phrases: list[str], *, short: bool) -> list[Fault]:
    """The faults of all modules `faults_*` and of the machine, whose name has one of these phrases in it."""
    names = sorted(module.name for module in iter_modules(tests.chaos.__path__))
    for name in [*(name for name in names if name.startswith("faults_")), "machine"]:
        import_module(f"tests.chaos.{name}")
    return [
        fault
        for fault in FAULTS
        if (fault.short or not short) and any(phrase in fault.name.lower() for phrase in phrases)
    ]


def perform_all(faults: list[Fault], seed: int, rounds: int) -> list[Outcome]:
    """The outcome of each; the logs of those that broke something are kept."""
    folder = Path(tempfile.mkdtemp(prefix="kasparro-chaos-"))
    outcomes: list[Outcome] = []
    try:
        with Servers(folder, seed, rounds) as servers:
            undisturbed = learn_undisturbed(servers, folder / "undisturbed")
            for number, fault in enumerate(faults, 1):
                began = time.monotonic()
                outcomes.append(perform(fault, servers, folder / f"{number:03}", undisturbed))
                _tell(f"{number}/{len(faults)}", outcomes[-1], time.monotonic() - began)
    finally:
        if any(outcome.broken for outcome in outcomes):
            sys.stderr.write(f"The logs of what broke something are in {folder}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def _tell(number: str, outcome: Outcome, seconds: float) -> None:
    how = f"not run: {outcome.not_run}" if outcome.not_run else "BROKEN" if outcome.broken else outcome.seen
    sys.stderr.write(f"[{number}] {seconds:5.1f} s  {outcome.name}: {how}\n")
    for what in outcome.broken:
        sys.stderr.write(f"    {what}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="how many random interleavings (default: 20)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="default: random")
    parser.add_argument(
        "--only", default="", metavar="PHRASES", help="faults whose name has one of these in it, separated by commas"
    )
    parser.add_argument("--short", action="store_true", help="the few faults that `make test` runs")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the two markers of this file")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("chaos: interrupted")
