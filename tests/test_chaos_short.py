"""Run the short form of the fault suite: a few faults with real processes. `make chaos` runs all faults."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
STOPS_WITHIN = 30


def test_a_few_faults_lose_no_rows_duplicate_none_and_leave_no_run_stuck(tmp_path: Path) -> None:
    log = tmp_path / "chaos.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "tests.chaos", "--short"]
        chaos = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        try:
            exit_code = chaos.wait(timeout=240)
        finally:
            chaos.terminate()  # so that it ends the processes it started
            chaos.wait(STOPS_WITHIN)
    output = log.read_text()
    assert exit_code == 0, output
    last = output.splitlines()[-1]
    assert re.fullmatch(r"chaos: [1-9]\d* faults, 0 rows lost, 0 rows duplicated, 0 runs stuck", last), output
