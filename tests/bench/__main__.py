"""Run the benchmarks: loads, reads and memory, compared with other tools in one run on this machine.

python -m tests.bench [--quick] [--rounds N] [--only "load, reads"] [--write docs/explanation/performance.md]
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

from tests.bench import peers_venv
from tests.bench.figures import Measured, NotMeasured
from tests.bench.growth import measure_growth
from tests.bench.loads import measure_loads
from tests.bench.machine import describe
from tests.bench.memory import measure_exports, measure_load_memory
from tests.bench.reads import measure_reads
from tests.bench.report import PLACE, show, write, write_medians
from tests.bench.scale import FULL, QUICK, Scale
from tests.bench.servers import Servers
from tests.bench.workers import measure_workers
from tests.processes import ROOT
from tests.servers import MigratedPostgres
from tests.short_times import remove_caller_settings

BUILD = ROOT / "build"
RESULT = BUILD / "bench.json"

Part = Callable[[Servers, Scale, Measured], None]
PARTS: Mapping[str, Part] = {
    "load": measure_loads,
    "workers": measure_workers,
    "memory": measure_load_memory,
    "growth": measure_growth,
    "reads": measure_reads,
    "exports": measure_exports,
}


def main() -> int:
    options = _parser().parse_args()
    if options.write:
        PLACE.around(options.write)  # Fail before the run, not after it.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.default_int_handler)  # KeyboardInterrupt ends all started processes.
    scale = QUICK if options.quick else FULL
    scale = replace(scale, rounds=options.rounds or scale.rounds)
    parts = [name.strip() for name in options.only.split(",") if name.strip()] or list(PARTS)
    if unknown := sorted(set(parts) - set(PARTS)):
        sys.stderr.write(f"Unknown parts: {', '.join(unknown)}. Choose from {', '.join(PARTS)}.\n")
        return 2
    remove_caller_settings()
    peers_venv.install()
    measured, machine = measure(parts, scale)
    title = f"bench, {scale.name} form, {scale.rounds} rounds; {machine}"
    show(measured, title)
    write_medians(measured, RESULT)
    if options.write and not measured.failures:
        write(options.write, measured, title)
    return int(bool(measured.failures))


def measure(parts: Sequence[str], scale: Scale) -> tuple[Measured, str]:
    """Return the measurements of these benchmarks and a description of the machine. Keep the logs after a failure."""
    BUILD.mkdir(exist_ok=True)
    folder, measured = Path(mkdtemp(prefix="bench-", dir=BUILD)), Measured()
    try:
        with MigratedPostgres(folder / "servers") as postgres:
            servers = Servers(folder, postgres)
            for part in parts:
                _measure(part, servers, scale, measured)
            return measured, describe(servers)
    finally:
        if measured.failures:
            sys.stderr.write(f"The logs of the failed benchmarks are in {folder.relative_to(ROOT)}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _measure(part: str, servers: Servers, scale: Scale, measured: Measured) -> None:
    started = time.monotonic()
    try:
        PARTS[part](servers, scale, measured)
    except NotMeasured as reason:
        measured.not_measured[part] = str(reason)
    except AssertionError as error:
        measured.failures[part] = str(error)
    sys.stderr.write(f"bench: {part} took {time.monotonic() - started:.0f} s\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="run the small form, in three minutes")
    parser.add_argument("--rounds", type=int, help="number of interleaved rounds (default: 5, or 3 with --quick)")
    parser.add_argument("--only", default="", metavar="PARTS", help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table between the markers of this file")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
