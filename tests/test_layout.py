"""Test that each module has a test file with its name and place, such as tests/tasks/runs/test_leases.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("app", "devstack", "sources", "store", "tasks")
ENTRY_POINTS = {"__init__.py", "__main__.py"}
MODULES = [
    file.relative_to(ROOT)
    for folder in FOLDERS
    for file in sorted((ROOT / folder).rglob("*.py"))
    if file.name not in ENTRY_POINTS and "migrations" not in file.parts
]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_each_module_has_a_test_file_with_its_name(module: Path) -> None:
    assert (ROOT / "tests" / module.parent / f"test_{module.name}").is_file()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_two_modules_of_a_folder_have_the_same_name(folder: str) -> None:
    names = Counter(module.name for module in MODULES if module.parts[0] == folder)
    assert [name for name, count in names.items() if count > 1] == []
