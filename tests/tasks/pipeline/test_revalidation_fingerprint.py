"""Test that the fingerprint of a mapping changes with any module that reads bodies."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from types import ModuleType

import pytest

import sources
from tasks.pipeline import revalidation
from tasks.pipeline.revalidation import mapping_fingerprint
from tests.upstreams import canned

ROOT = Path(__file__).parents[3]

CHANGE_EACH_FILE = """
import sys
from pathlib import Path
from sources.registry import SOURCES
from tasks.pipeline import revalidation

fingerprint = revalidation.mapping_fingerprint
before = {name: fingerprint(source) for name, source in SOURCES.items()}
for path in map(Path, sys.argv[1:]):
    text = path.read_text()
    path.write_text(text + "# changed")
    revalidation._digest.cache_clear()
    unchanged = [name for name, source in SOURCES.items() if fingerprint(source) == before[name]]
    path.write_text(text)
    print(path, *unchanged)
"""


def modules(package: ModuleType) -> set[Path]:
    """Return the files of all modules of a package and its subpackages."""
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return {Path(str(import_module(name).__file__)) for name in [package.__name__, *names]}


def imported_task_modules(module: str) -> set[str]:
    """Return a module of `tasks` and all modules of `tasks` that it imports, directly or not."""
    tree = ast.parse(Path(str(import_module(module).__file__)).read_text())
    imports = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {module}.union(*(imported_task_modules(name) for name in imports if name.startswith("tasks.")))


NORMALIZING = {Path(*name.split(".")).with_suffix(".py") for name in imported_task_modules("tasks.pipeline.normalize")}
"""The modules outside `sources` that decide what becomes of a body."""


def test_the_fingerprint_includes_every_module_that_reads_bodies() -> None:
    shared = set(map(Path, revalidation._SHARED))
    assert modules(sources) <= shared
    assert {ROOT / path for path in NORMALIZING} <= shared
    names = {path.relative_to(ROOT).as_posix() for path in shared}
    assert {"sources/csv/blocks.py", "sources/csv/fields.py", "sources/http/json_body.py", "sources/record.py"} <= names
    assert {"tasks/drift/policy.py", "tasks/pipeline/normalize.py", "tasks/pipeline/quote_frame.py"} <= names


def test_changing_any_module_that_reads_bodies_changes_every_fingerprint(tmp_path: Path) -> None:
    """Change each file in a copy of the project, and compute the fingerprints again."""
    for folder in ("sources", "store", "tasks"):
        copytree(ROOT / folder, tmp_path / folder, ignore=ignore_patterns("__pycache__"))
    copy(ROOT / "settings.py", tmp_path)
    files = [
        path.relative_to(tmp_path) for name in ("csv", "http") for path in (tmp_path / "sources" / name).glob("*.py")
    ]
    files += sorted(NORMALIZING)
    ran = subprocess.run(
        [sys.executable, "-c", CHANGE_EACH_FILE, *files], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert ran.stdout.splitlines() == [str(path) for path in files], (
        "a path is followed by the sources with an unchanged fingerprint"
    )


def test_the_fingerprint_of_a_source_includes_the_modules_of_its_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    fingerprints = {mapping_fingerprint(canned())}
    for part in ("fetch", "parse", "normalize"):
        (tmp_path / f"own_{part}.py").write_text(f"def {part}(*_):\n    return iter(())\n")
        own = getattr(import_module(f"own_{part}"), part)
        fingerprints.add(mapping_fingerprint(replace(canned(), **{part: own})))
    assert len(fingerprints) == 4


def test_the_fingerprint_of_a_source_does_not_depend_on_its_name() -> None:
    assert mapping_fingerprint(canned(name="first")) == mapping_fingerprint(canned(name="second"))
