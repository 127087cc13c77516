"""Test that the registry lists the valid sources with their overrides, and reports all errors at once."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from settings import SourceSettings
from sources.registry import SOURCES, sources_of
from tests.processes import ROOT

VALID_MODULE = """
from datetime import timedelta
from sources.contract import Source
source = Source("{name}", timedelta(hours=1), lambda window, http: iter(()), lambda page: [], lambda item: item)
"""
PRINT_REGISTRY = """
from settings import SettingsError
try:
    from sources.registry import BROKEN, SOURCES
except SettingsError as error:
    print(error)
else:
    for source in BROKEN.values():
        print("broken", source.name, source.module, source.detail)
    for source in SOURCES.values():
        print(source.name, int(source.every.total_seconds()), source.rate.per_minute, source.rate.per_month)
        print(source.name, "keeps quotes", source.retention.quotes, "bodies", source.retention.bodies)
"""

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


def broken(output: str) -> dict[str, str]:
    """Return the printed detail of each broken source, by name."""
    found = re.findall(r"^broken (\S+) \S+ (.*(?:\n  .*)*)", output, re.MULTILINE)
    return {name: detail.split("\n  ")[-1] for name, detail in found}


def test_a_wrong_source_is_broken_and_all_others_are_listed(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("")
    (tmp_path / "number.py").write_text("source = 7")
    (tmp_path / "over.py").write_text("raise SystemExit(0)")
    (tmp_path / "both.py").write_text("source, sources = 7, [7]")
    (tmp_path / "empty.py").write_text("sources = ()")
    (tmp_path / "slash.py").write_text(VALID_MODULE.format(name="a/b"))
    (tmp_path / "one.py").write_text(VALID_MODULE.format(name="one"))
    modules = "absent, none, number, over, both, empty, slash, ./slash.py, one"
    output = registry({"EXTRA_SOURCES": modules, "COINGECKO_PLAN": "pro", "COINPAPRIKA_EVERY": "often"})
    assert "one 3600 None None" in output
    assert "csv_history 900 None None" in output
    choose = "define `source = Source(…)`, or `sources = [Source(…), …]`"
    assert broken(output) == {
        "absent": "EXTRA_SOURCES: cannot import absent: No module named 'absent'.",
        "none": f"EXTRA_SOURCES: none defines neither `source` nor `sources`; {choose}",
        "number": "number.source must be a sources.Source, but its type is int.",
        "over": f"EXTRA_SOURCES: cannot import over: SystemExit: 0 ({tmp_path}/over.py:1).",
        "both": f"EXTRA_SOURCES: both defines both `source` and `sources`; {choose}",
        "empty": "empty.sources must be a list of at least one Source, but is tuple.",
        "slash": f"slash: {tmp_path}/slash.py:4: source 'a/b': name must be a letter and up to 62 letters, digits and "
        "underscores, in lower case, but is 'a/b'.",
        "slash_2": "EXTRA_SOURCES: cannot import ./slash.py: TypeError: the 'package' argument is required to perform "
        "a relative import for './slash.py'.",
        "coinpaprika": "COINPAPRIKA_EVERY: Not a valid number.",
        "coingecko": "COINGECKO_API_KEY: the plan 'pro' needs a key; set it.",
    }


def test_the_name_of_a_source_is_known_even_if_its_module_cannot_be_imported(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "desk_v2.py").write_text("1 / 0\n" + VALID_MODULE.format(name="desk"))
    (tmp_path / "closes_v2.py").write_text('from sources import csv_source\nsource = csv_source("closes", 5, ())')
    output = registry({"EXTRA_SOURCES": "desk_v2, closes_v2"})
    assert broken(output).keys() == {"desk", "closes"}


def test_a_module_may_define_several_sources(registry: Registry, tmp_path: Path) -> None:
    text = VALID_MODULE.format(name="one").replace("source =", "first =")
    more = 'from dataclasses import replace\nsources = [first, replace(first, name="two")]'
    (tmp_path / "several.py").write_text(f"{text}\n{more}")
    output = registry({"EXTRA_SOURCES": "several", "TWO_EVERY": "abc"})
    assert "one 3600 None None" in output
    assert broken(output) == {"two": "TWO_EVERY: Not a valid number."}


def test_the_second_of_two_sources_with_the_same_name_is_broken(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(VALID_MODULE.format(name="coingecko"))
    output = registry({"EXTRA_SOURCES": "mine"})
    assert re.search(r"^coingecko \d+ ", output, re.MULTILINE)
    assert broken(output) == {
        "mine": "mine declares the source 'coingecko', but sources.coingecko declares it, too; "
        "rename one, or remove its module."
    }


def test_a_misspelt_setting_of_the_service_stops_the_process(registry: Registry) -> None:
    assert registry({"RUN_WORKRES": "3"}).splitlines() == [
        "These settings are wrong or missing:",
        "  RUN_WORKRES: there is no such setting; did you mean RUN_WORKERS?",
    ]


def test_a_module_that_is_not_registered_yet_has_its_own_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for module, name in (("unregistered", "not_yet"), ("clash", "coingecko"), ("no_source", "")):
        (tmp_path / f"{module}.py").write_text(VALID_MODULE.format(name=name) if name else "")
    assert [list(found) for found in sources_of("unregistered")] == [["not_yet"], []]
    assert [list(found) for found in sources_of("sources.coinpaprika")] == [["coinpaprika"], []]
    sources, broken = sources_of("clash")
    assert sources == {}
    assert "but sources.coingecko declares it, too" in broken["clash"].detail
    assert "defines neither `source` nor `sources`" in sources_of("no_source")[1]["no_source"].detail
    assert "not_yet" not in SOURCES


def test_a_source_in_a_package_that_fails_stops_no_other(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "failing_package").mkdir()
    (tmp_path / "failing_package/__init__.py").write_text("1 // 0")
    (tmp_path / "failing_package/desk.py").write_text(VALID_MODULE.format(name="desk"))
    printed = registry({"EXTRA_SOURCES": "failing_package.desk"})
    assert "broken desk failing_package.desk EXTRA_SOURCES: cannot import failing_package.desk: " in printed
    assert "coingecko 1800" in printed
