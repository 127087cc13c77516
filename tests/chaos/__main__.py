"""Run the fault-injection suite: inject each fault into real servers and processes, then check the invariants.

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
from tests.chaos.registry import FAULTS, Fault
from tests.chaos.report import PLACE, last_line, show, write
from tests.chaos.runner import perform, record_baseline
from tests.chaos.servers import Servers
from tests.servers import memory_folder


def main() -> int:
    options = _parser().parse_args()
    if options.write:
        PLACE.around(options.write)  # Fail before the run, not after it.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # KeyboardInterrupt stops all started processes. Hypothesis would report any other exception as a failure.
        signal.signal(signum, signal.default_int_handler)
    faults = choose([phrase.strip() for phrase in options.only.lower().split(",")], short=options.short)
    if not faults:
        sys.stderr.write(f"No fault has {options.only!r} in its name.\n")
        return 2
    sys.stderr.write(f"chaos: {len(faults)} faults, seed {options.seed}\n")
    outcomes = perform_all(faults, options.seed, options.rounds)
    show(outcomes, options.seed)
    if options.write:
        write(options.write, outcomes, options.seed, options.rounds)
    failed = [outcome.name for outcome in outcomes if outcome.failures]
    for name in failed:
        sys.stdout.write(f"FAILED: {name}\n")
    sys.stdout.write(last_line(outcomes) + "\n")
    return int(bool(failed))


def choose(phrases: list[str], *, short: bool) -> list[Fault]:
    """Return the faults whose name contains one of the phrases, in lower case. `short` keeps those of `make test`."""
    names = sorted(module.name for module in iter_modules(tests.chaos.__path__))
    for name in [*(name for name in names if name.startswith("faults_")), "interleavings"]:
        import_module(f"tests.chaos.{name}")
    return [
        fault
        for fault in FAULTS
        if (fault.short or not short) and any(phrase in fault.name.lower() for phrase in phrases)
    ]


def perform_all(faults: list[Fault], seed: int, rounds: int) -> list[Outcome]:
    """Return the outcome of each fault. Keep the logs if a fault failed."""
    folder = Path(tempfile.mkdtemp(prefix="kasparro-chaos-", dir=memory_folder()))
    outcomes: list[Outcome] = []
    try:
        with Servers(folder, seed, rounds) as servers:
            baseline = record_baseline(servers, folder / "undisturbed")
            for number, fault in enumerate(faults, 1):
                started_at = time.monotonic()
                outcomes.append(perform(fault, servers, folder / f"{number:03}", baseline))
                _print_progress(f"{number}/{len(faults)}", outcomes[-1], time.monotonic() - started_at)
    finally:
        if any(outcome.failures for outcome in outcomes):
            sys.stderr.write(f"The logs of the failed faults are in {folder}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def _print_progress(number: str, outcome: Outcome, seconds: float) -> None:
    status = f"not run: {outcome.not_run}" if outcome.not_run else "FAILED" if outcome.failures else outcome.result
    sys.stderr.write(f"[{number}] {seconds:5.1f} s  {outcome.name}: {status}\n")
    for failure in outcome.failures:
        sys.stderr.write(f"    {failure}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="number of rounds of random interleavings (default: 20)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="default: random")
    parser.add_argument(
        "--only", default="", metavar="PHRASES", help="run the faults whose name contains one of these, comma-separated"
    )
    parser.add_argument("--short", action="store_true", help="run only the few faults that `make test` runs")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table between the markers of this file")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("chaos: interrupted")
