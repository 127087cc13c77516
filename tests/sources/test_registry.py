"""Test that the registry lists the valid sources with their overrides, and reports all errors at once."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from settings import SourceSettings
from sources.registry import SOURCES
from tests.processes import ROOT

VALID_MODULE = """
from datetime import timedelta
from sources.contract import Source
source = Source("{name}", timedelta(hours=1), lambda window, http: iter(()), lambda page: [], lambda item: item)
"""
PRINT_REGISTRY = """
from settings import SettingsError
try:
    from sources.registry import SOURCES
except SettingsError as error:
    print(error)
else:
    for source in SOURCES.values():
        print(source.name, int(source.every.total_seconds()), source.rate.per_minute, source.rate.per_month)
        print(source.name, "keeps quotes", source.retention.quotes, "bodies", source.retention.bodies)
"""

NEXT_STEP = "Name a module that defines `source`."

Registry = Callable[[Mapping[str, str]], str]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Return a function that returns the printed registry, or the errors, of a process with this environment."""

    def registry(environ: Mapping[str, str]) -> str:
        path = os.pathsep.join([str(ROOT), str(tmp_path)])
        process = subprocess.run(
            [sys.executable, "-c", PRINT_REGISTRY],
            env={**os.environ, **environ, "PYTHONPATH": path},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        return process.stdout

    return registry


def test_the_sources_of_the_project_are_listed_by_name() -> None:
    assert {name: source.name for name, source in SOURCES.items()} == {name: name for name in SOURCES}
    assert set(SOURCES) >= {"coinpaprika", "coingecko"}


def test_the_default_schedules_stay_within_the_free_plans() -> None:
    for name, calls in {"coinpaprika": 1, "coingecko": 4}.items():
        source = SOURCES[name]
        assert source.rate.per_month is not None
        assert 31 * 86400 / source.every.total_seconds() * calls < 0.7 * source.rate.per_month


def test_environment_variables_override_the_schedule_and_the_rate_limit(registry: Registry) -> None:
    output = registry({"COINGECKO_EVERY": "90", "COINGECKO_CALLS_PER_MINUTE": "3", "COINPAPRIKA_CALLS_PER_MONTH": "7"})
    assert "coingecko 90 3 10000\n" in output
    assert "coinpaprika 600 30 7\n" in output


def test_data_is_kept_forever_unless_the_environment_sets_a_retention(registry: Registry) -> None:
    output = registry({"COINGECKO_QUOTES_KEPT": "2592000", "CSV_HISTORY_BODIES_KEPT": "86400"})
    assert "coingecko keeps quotes 30 days, 0:00:00 bodies None\n" in output
    assert "csv_history keeps quotes None bodies 1 day, 0:00:00\n" in output
    assert "coinpaprika keeps quotes None bodies None\n" in output


def read_fields(file: Path) -> set[str]:
    """Return the attributes that a module reads from the result of `read_source_settings`."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    assigned = [node for node in nodes if isinstance(node, ast.Assign) and _reads_settings(node.value)]
    names = {ast.unparse(target) for node in assigned for target in node.targets}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    return {node.attr for node in attributes if _reads_settings(node.value) or ast.unparse(node.value) in names}


def _reads_settings(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "read_source_settings"


def test_every_setting_of_a_source_has_an_effect() -> None:
    read = set[str]().union(*map(read_fields, (ROOT / "sources").rglob("*.py")))
    assert read == {setting.name for setting in fields(SourceSettings)}


def test_extra_sources_adds_the_sources_of_its_modules(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(VALID_MODULE.format(name="one"))
    (tmp_path / "two.py").write_text(VALID_MODULE.format(name="two"))
    output = registry({"EXTRA_SOURCES": " one, two ,", "ONE_EVERY": "5", "ONE_CALLS_PER_MONTH": "9"})
    assert "one 5 None 9\n" in output
    assert "two 3600 None None\n" in output


def test_all_errors_are_reported_at_once(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("")
    (tmp_path / "number.py").write_text("source = 7")
    (tmp_path / "lost.py").write_text("1 / 0")
    (tmp_path / "over.py").write_text("raise SystemExit(0)")
    (tmp_path / "lame.py").write_text("from sources.contract import Nothing")
    (tmp_path / "slash.py").write_text(VALID_MODULE.format(name="a/b"))
    modules = "absent, none, number, lost, over, lame, slash, ./slash.py"
    output = registry({"EXTRA_SOURCES": modules, "COINGECKO_PLAN": "pro", "COINPAPRIKA_EVERY": "often"})
    assert output.splitlines() == [
        "These settings are wrong or missing:",
        "  COINPAPRIKA_EVERY: Not a valid number.",
        "COINGECKO_API_KEY: the plan 'pro' needs a key; set it.",
        f"EXTRA_SOURCES: cannot import absent.source: No module named 'absent'. {NEXT_STEP}",
        f"EXTRA_SOURCES: cannot import none.source: module 'none' has no attribute 'source'. {NEXT_STEP}",
        "number.source must be a sources.Source, but its type is int.",
        f"EXTRA_SOURCES: cannot import lost.source: ZeroDivisionError: division by zero. {NEXT_STEP}",
        f"EXTRA_SOURCES: cannot import over.source: SystemExit: 0. {NEXT_STEP}",
        f"EXTRA_SOURCES: cannot import lame.source: cannot import name 'Nothing' from 'sources.contract' "
        f"({ROOT / 'sources' / 'contract.py'}). {NEXT_STEP}",
        "slash.source: its name must match [a-z][a-z0-9_]{0,62}, but is 'a/b'.",
        "EXTRA_SOURCES: cannot import ./slash.py.source: "
        f"the 'package' argument is required to perform a relative import for './slash.py'. {NEXT_STEP}",
    ]


def test_an_unknown_policy_for_missed_slots_is_refused(registry: Registry, tmp_path: Path) -> None:
    module = VALID_MODULE.format(name="mine").replace("item: item)", 'item: item, catch_up="sometimes")')
    (tmp_path / "mine.py").write_text(module)
    output = registry({"EXTRA_SOURCES": "mine", "COINGECKO_CATCH_UP": "never"})
    assert output.splitlines() == [
        "These settings are wrong or missing:",
        "  COINGECKO_CATCH_UP: Must be one of: latest, all, skip.",
        "mine.source: its catch_up must be one of latest, all, skip, but is 'sometimes'.",
    ]


def test_two_sources_with_the_same_name_are_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(VALID_MODULE.format(name="coingecko"))
    assert registry({"EXTRA_SOURCES": "mine"}) == (
        "Two sources have the same name: coingecko. Rename one, or remove it from EXTRA_SOURCES.\n"
    )
