"""Test that the settings import no package, and that each module has a test file such as runs/test_leases.py."""

from __future__ import annotations

import ast
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


def test_the_settings_import_none_of_the_packages() -> None:
    nodes = list(ast.walk(ast.parse((ROOT / "settings.py").read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    packages = {name.partition(".")[0] for name in names}
    assert "marshmallow" in packages
    assert packages.isdisjoint(FOLDERS)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_each_module_has_a_test_file_with_its_name(module: Path) -> None:
    assert (ROOT / "tests" / module.parent / f"test_{module.name}").is_file()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_two_modules_of_a_folder_have_the_same_name(folder: str) -> None:
    names = Counter(module.name for module in MODULES if module.parts[0] == folder)
    assert [name for name, count in names.items() if count > 1] == []
