"""Provide a source whose files are the whole truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tasks.conftest import Bench
from tests.tasks.retraction.whole_truth import Truth, truth_in


@pytest.fixture
def truth(bench: Bench, tmp_path: Path) -> Iterator[Truth]:
    with truth_in(bench, tmp_path) as truth:
        yield truth
