"""Folders of CSV files for tests."""

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
    """Return a function that reads one file with this content, by this declaration."""

    def read(content: str | bytes, **declaration: Any) -> Outcome:
        folder = Folder(tmp_path, daily_files(**declaration))
        folder.write("file.csv", content)
        return folder.read("file.csv")

    return read


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    """Yield a folder that is shared by the examples of a property."""
    with TemporaryDirectory() as path:
        yield Path(path)
