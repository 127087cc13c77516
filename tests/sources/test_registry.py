"""The registry: what it takes for a source, and all that is wrong with the others at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sources.registry import SOURCES
from tests.processes import ROOT

GOOD = """
from datetime import timedelta
from sources.contract import Source
source = Source("{name}", timedelta(hours=1), lambda window, http: iter(()), lambda page: [], lambda item: item)
"""
SHOW = """
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

Registry = Callable[[Mapping[str, str]], str]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """What a process in an environment makes of its registry."""

    def registry(environ: Mapping[str, str]) -> str:
        path = os.pathsep.join([str(ROOT), str(tmp_path)])
        process = subprocess.run(
            [sys.executable, "-c", SHOW],
            env={**os.environ, **environ, "PYTHONPATH": path},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        return process.stdout

    return registry


def test_the_sources_of_the_project_are_there_under_their_names() -> None:
    assert {name: source.name for name, source in SOURCES.items()} == {name: name for name in SOURCES}
    assert set(SOURCES) >= {"coinpaprika", "coingecko"}


def test_the_declared_schedules_stay_within_the_free_plans() -> None:
    for name, calls in {"coinpaprika": 1, "coingecko": 4}.items():
        source = SOURCES[name]
        assert source.rate.per_month is not None
        assert 31 * 86400 / source.every.total_seconds() * calls < 0.7 * source.rate.per_month


def test_the_environment_sets_schedule_and_rate(registry: Registry) -> None:
    shown = registry({"COINGECKO_EVERY": "90", "COINGECKO_CALLS_PER_MINUTE": "3", "COINPAPRIKA_CALLS_PER_MONTH": "7"})
    assert "coingecko 90 3 10000\n" in shown
    assert "coinpaprika 600 30 7\n" in shown


def test_the_environment_sets_how_long_things_are_kept_and_else_they_are_kept_for_ever(registry: Registry) -> None:
    shown = registry({"COINGECKO_QUOTES_KEPT": "2592000", "CSV_HISTORY_BODIES_KEPT": "86400"})
    assert "coingecko keeps quotes 30 days, 0:00:00 bodies None\n" in shown
    assert "csv_history keeps quotes None bodies 1 day, 0:00:00\n" in shown
    assert "coinpaprika keeps quotes None bodies None\n" in shown


def test_a_module_of_its_own_is_a_source_too(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(GOOD.format(name="one"))
    (tmp_path / "two.py").write_text(GOOD.format(name="two"))
    shown = registry({"EXTRA_SOURCES": " one, two ,", "ONE_EVERY": "5", "ONE_CALLS_PER_MONTH": "9"})
    assert "one 5 None 9\n" in shown
    assert "two 3600 None None\n" in shown


def test_all_that_is_wrong_is_said_at_once(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("")
    (tmp_path / "number.py").write_text("source = 7")
    (tmp_path / "lost.py").write_text("1 / 0")
    (tmp_path / "over.py").write_text("raise SystemExit(0)")
    (tmp_path / "lame.py").write_text("from sources.contract import Nothing")
    (tmp_path / "slash.py").write_text(GOOD.format(name="a/b"))
    modules = "absent, none, number, lost, over, lame, slash, ./slash.py"
    shown = registry({"EXTRA_SOURCES": modules, "COINGECKO_PLAN": "pro", "COINPAPRIKA_EVERY": "often"})
    assert shown.splitlines() == [
        "These settings are wrong or missing:",
        "  COINPAPRIKA_EVERY: Not a valid number.",
        "COINGECKO_API_KEY: the plan 'pro' needs a key.",
        "EXTRA_SOURCES: absent is no module with a `source`: No module named 'absent'.",
        "EXTRA_SOURCES: none is no module with a `source`: module 'none' has no attribute 'source'.",
        "number.source must be a sources.contract.Source, not a int.",
        "EXTRA_SOURCES: lost is no module with a `source`: ZeroDivisionError: division by zero.",
        "EXTRA_SOURCES: over is no module with a `source`: SystemExit: 0.",
        f"EXTRA_SOURCES: lame is no module with a `source`: cannot import name 'Nothing' from 'sources.contract' "
        f"({ROOT / 'sources' / 'contract.py'}).",
        "slash.source: its name must match [a-z][a-z0-9_]{0,62}, it is 'a/b'.",
        "EXTRA_SOURCES: ./slash.py is no module with a `source`: "
        "the 'package' argument is required to perform a relative import for './slash.py'.",
    ]


def test_a_policy_for_missed_slots_that_there_is_not_is_refused(registry: Registry, tmp_path: Path) -> None:
    declared = GOOD.format(name="mine").replace("item: item)", 'item: item, catch_up="sometimes")')
    (tmp_path / "mine.py").write_text(declared)
    shown = registry({"EXTRA_SOURCES": "mine", "COINGECKO_CATCH_UP": "never"})
    assert shown.splitlines() == [
        "These settings are wrong or missing:",
        "  COINGECKO_CATCH_UP: Must be one of: latest, all, skip.",
        "mine.source: its catch_up must be one of latest, all, skip, it is 'sometimes'.",
    ]


def test_two_sources_of_one_name_are_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD.format(name="coingecko"))
    assert registry({"EXTRA_SOURCES": "mine"}) == "Two sources have the same name: coingecko.\n"
