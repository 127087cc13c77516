"""Install the libraries that Kasparro is compared with into a separate virtual environment."""

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
    """Install the lock file, unless this Python has already installed the same content."""
    stamp = f"{sys.version}\n{LOCK.read_text()}"
    if STAMP.exists() and STAMP.read_text() == stamp:
        return
    sys.stderr.write(f"Installing {LOCK.relative_to(ROOT)} into {VENV.relative_to(ROOT)} …\n")
    _uv("venv", "--clear", "--python", sys.executable, str(VENV))
    _uv("pip", "install", "--python", str(PYTHON), "--require-hashes", "-r", str(LOCK))
    STAMP.write_text(stamp)


def load_with_dlt(url: str, rows: Path) -> Sequence[Cost]:
    """Return the costs of a first load of the rows, and of a second load of the same rows."""
    with TemporaryDirectory(dir=rows.parent) as folder:
        command: list[str | Path] = [PYTHON, PEERS / "dlt_load.py", url, rows, folder]
        environ = {**os.environ, "HOME": folder, "TMPDIR": folder}
        completed = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return [Cost(**cost) for cost in json.loads(completed.stdout.splitlines()[-1])]


def _uv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", "--quiet", *arguments], cwd=ROOT, check=True)
