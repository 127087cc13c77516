"""Create folders of CSV files for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.sources.csv_folder import Folder, Outcome, daily_files


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, daily_files())


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Return a function that writes a file with some content, and reads it with some declaration."""

    def read(content: str | bytes, **declaration: Any) -> Outcome:
        folder = Folder(tmp_path, daily_files(**declaration))
        folder.write("file.csv", content)
        return folder.read("file.csv")

    return read


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    """Yield a folder that all examples of a property-based test share."""
    with TemporaryDirectory() as path:
        yield Path(path)
