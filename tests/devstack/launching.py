"""Run launcher.py in a separate process, optionally without the right to create user namespaces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from devstack.process import family

HERE = Path(__file__).parent
LAUNCHER, REFUSE_NAMESPACES = HERE / "launcher.py", HERE / "refuse_namespaces.py"


@contextmanager
def launched(folder: Path, *prefix: str | Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start the launcher, and yield its process and its report once its servers are ready.

    prefix: a command that runs the launcher.
    """
    command = [sys.executable, *prefix, LAUNCHER, folder]
    env = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as launcher:
        try:
            assert launcher.stdout
            yield launcher, json.loads(launcher.stdout.readline())
        finally:
            launcher.kill()


def families(pids: Sequence[int]) -> list[psutil.Process]:
    return [process for pid in pids for process in family(pid)]
