"""The libraries that Kasparro is measured against: in a virtual environment of their own, which only this needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.database import Cost
from tests.processes import ROOT

PEERS = Path(__file__).parent / "peers"
LOCK = PEERS / "requirements.lock"
VENV = ROOT / "build" / "bench-venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed"


def install() -> None:
    """Once for each content of the lock and each Python."""
    wanted = f"{sys.version}\n{LOCK.read_text()}"
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    sys.stderr.write(f"Installing what {LOCK.relative_to(ROOT)} names into {VENV.relative_to(ROOT)} …\n")
    _uv("venv", "--clear", "--python", sys.executable, str(VENV))
    _uv("pip", "install", "--python", str(PYTHON), "--require-hashes", "-r", str(LOCK))
    STAMP.write_text(wanted)


def load_with_dlt(url: str, rows: Path) -> Sequence[Cost]:
    """What a first load of the rows costs, and a second one of the same."""
    with TemporaryDirectory(dir=rows.parent) as folder:
        command: list[str | Path] = [PYTHON, PEERS / "dlt_load.py", url, rows, folder]
        environ = {**os.environ, "HOME": folder, "TMPDIR": folder}
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Cost(**cost) for cost in json.loads(done.stdout.splitlines()[-1])]


def _uv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", "--quiet", *arguments], cwd=ROOT, check=True)
