"""Find small inputs that once failed. Their folder is optional: without it, the tests that need it are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import ROOT

FIELD = ROOT.parent / "shared" / "field"


def field_folder(name: str) -> Path:
    """Return the folder of one kind of fault. Skip the test if the folder does not exist."""
    folder = FIELD / name
    if not folder.is_dir():
        pytest.skip(f"needs the folder ../shared/field/{name}")
    return folder
