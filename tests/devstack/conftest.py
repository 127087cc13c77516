"""A data folder for a test's servers, of which nothing is left afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.postgres import Postgres
from devstack.valkey import Valkey


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield (data := tmp_path / "data with a space")
    if data.exists():
        for server in (Valkey(data), postgres := Postgres(data)):
            server.stop_stale()
        postgres.erase()
