"""Provide a data folder for a test's servers, and a stack of stand-ins. Remove both after the test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.postgres import Postgres
from devstack.valkey import Valkey
from tests.devstack.stack import HERE, STAND_IN, Devstack

OVERRIDDEN = ("DATABASE_URL", "REDIS_URL", "API_TOKEN", "WEB_PORT", "FLOWER_PORT", "FLOWER_BASIC_AUTH", "UPSTREAM")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield (data := tmp_path / "data with a space")
    if data.exists():
        for server in (Valkey(data), postgres := Postgres(data)):
            server.stop_stale()
        postgres.erase()


@pytest.fixture
def devstack(folder: Path, tmp_path: Path) -> Iterator[Devstack]:
    """Yield a function that starts `python -m devstack` with a Procfile of stand-ins.

    flower, worker, web: the commands of these lines of the Procfile.
    status: the status of the first run.
    """

    def start(
        *arguments: str,
        flower: str = f"{STAND_IN} FLOWER_PORT succeeded",
        worker: str = "exec sleep 600",
        status: str = "succeeded",
        web: str = "",
    ) -> subprocess.Popen[str]:
        procfile = tmp_path / "Procfile"
        procfile.write_text(f"web: {web or f'{STAND_IN} WEB_PORT {status}'}\nworker: {worker}\nflower: {flower}\n")
        env = {name: value for name, value in os.environ.items() if name not in OVERRIDDEN}
        env |= {"KASPARRO_DATA": str(folder), "PROCFILE": str(procfile), "COINGECKO_API_KEY": "must-not-be-seen"}
        return subprocess.Popen(
            [sys.executable, "-m", "devstack", *arguments],
            cwd=HERE.parents[1],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    yield start
    if folder.exists():
        start("down").communicate(timeout=60)
