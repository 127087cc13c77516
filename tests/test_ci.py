"""Test the command line of .ci/run."""

from __future__ import annotations

import subprocess

from tests.processes import ROOT


def test_an_argument_is_rejected_before_any_check_runs() -> None:
    command = subprocess.run([ROOT / ".ci/run", "--help"], capture_output=True, text=True, check=False)
    assert (command.returncode, command.stdout) == (2, "")
    assert "takes no arguments" in command.stderr
