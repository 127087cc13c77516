"""The fault suite's short form: a few faults of each kind, with real processes; `make chaos` has them all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
GRACE = 30


def test_a_few_faults_lose_nothing_double_nothing_and_leave_nothing_stuck(tmp_path: Path) -> None:
    log = tmp_path / "chaos.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "tests.chaos", "--short"]
        chaos = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        try:
            failed = chaos.wait(timeout=240)
        finally:
            chaos.terminate()  # so that it ends what it started
            chaos.wait(GRACE)
    told = log.read_text()
    assert not failed, told
    last = told.splitlines()[-1]
    assert re.fullmatch(r"chaos: [1-9]\d* faults, 0 rows lost, 0 rows duplicated, 0 runs stuck", last), told
