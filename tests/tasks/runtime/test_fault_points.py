"""Test that an armed fault point fires once, and that an unarmed fault point does nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

REACH_TWICE = """
from tasks.runtime.fault_points import reach
reach("before_commit")
reach("after_commit")
print("reached both")
"""


def reach_twice(**environ: str) -> subprocess.CompletedProcess[str]:
    """Reach two fault points in a separate process."""
    return subprocess.run(
        [sys.executable, "-c", REACH_TWICE],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
    )


def test_the_first_process_at_an_armed_fault_point_sends_itself_the_signal(tmp_path: Path) -> None:
    armed = tmp_path / "after_commit"
    armed.write_text("SIGKILL\n")
    killed = reach_twice(KASPARRO_FAULTS=str(tmp_path))
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "")
    assert not armed.exists()
    assert reach_twice(KASPARRO_FAULTS=str(tmp_path)).stdout == "reached both\n"


def test_no_fault_point_fires_without_a_folder(tmp_path: Path) -> None:
    (tmp_path / "after_commit").write_text("SIGKILL")
    assert reach_twice().stdout == "reached both\n"
