"""Run the short fault-injection suite: a few faults with real processes. `make chaos` runs all faults."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
STOPS_WITHIN = 30


def test_the_short_suite_finds_no_lost_or_duplicated_rows_and_no_stuck_runs(tmp_path: Path) -> None:
    log = tmp_path / "chaos.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "tests.chaos", "--short"]
        chaos = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        try:
            exit_code = chaos.wait(timeout=240)
        finally:
            chaos.terminate()  # Let it end the processes that it started.
            chaos.wait(STOPS_WITHIN)
    output = log.read_text()
    assert exit_code == 0, output
    last = output.splitlines()[-1]
    assert re.fullmatch(r"chaos: [1-9]\d* faults, 0 rows lost, 0 rows duplicated, 0 runs stuck", last), output
