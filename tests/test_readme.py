"""What the README says is so: its source works, its tables are those of the code."""

from __future__ import annotations

import ast
import os
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import Engine, text

import settings
from app import create_app
from sources.registry import MODULES
from tests.processes import Process, until

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PRICES = [
    {"id": "x1", "ticker": "BTC", "title": "Bitcoin", "usd": "1.10", "at": "2026-01-01T00:00:00Z"},
    {"id": "x2", "ticker": "ETH", "title": "Ethereum", "usd": 2e-9, "at": "2026-01-01T00:00:00Z"},
    {"id": "x3", "ticker": "BAD", "title": "Bad", "usd": "much", "at": "2026-01-01T00:00:00Z"},
]


@pytest.fixture
def example(tmp_path: Path) -> str:
    """The name of a module that is the README's source, where Python finds it."""
    [code] = re.findall(r"```python\n(\"\"\"The desk's.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 50
    (tmp_path / "deskfeed.py").write_text(code)
    return "deskfeed"


def test_the_source_of_the_readme_works_as_it_stands(
    example: str, tmp_path: Path, engine: Engine, start: Callable[..., Process], httpserver: HTTPServer
) -> None:
    key = {"headers": {"X-Api-Key": "the desk's key".replace(" ", "-")}}
    for number, price in enumerate(PRICES, start=1):
        answer = {"prices": [price], "more": number < len(PRICES)}
        httpserver.expect_request("/prices", query_string={"page": str(number)}, **key).respond_with_json(answer)
    environ = {
        "EXTRA_SOURCES": example,
        "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))),
        "DESKFEED_URL": httpserver.url_for("").rstrip("/"),
        "DESKFEED_API_KEY": key["headers"]["X-Api-Key"],
        "DESKFEED_EVERY": "3600",
    }
    for role in ("worker", "control", "beat"):
        start(role, **environ)

    def run() -> tuple[uuid.UUID, str] | None:
        with engine.connect() as connection:
            row = connection.execute(
                text("SELECT id, status FROM runs WHERE source = 'deskfeed' AND finished_at IS NOT NULL")
            ).one_or_none()
        return (row.id, row.status) if row else None

    assert until(run)[1] == "partial"
    with engine.connect() as connection:
        prices = connection.execute(
            text(
                "SELECT symbol, price FROM quotes JOIN listings ON id = listing_id WHERE source = 'deskfeed' ORDER BY 1"
            )
        ).all()
    assert [tuple(row) for row in prices] == [("BTC", Decimal("1.10")), ("ETH", Decimal("2e-9"))]


def test_the_line_of_the_readme_registers_it() -> None:
    [line] = re.findall(r"this is the line.*?```\n(.*?\n)```", README, re.DOTALL)
    registry = (ROOT / "sources" / "registry.py").read_text()
    assert '    "sources.csv_history",\n' in registry
    registered = ast.parse(registry.replace('    "sources.csv_history",\n', '    "sources.csv_history",\n' + line))
    [modules] = [
        ast.literal_eval(node.value)
        for node in registered.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES"
    ]
    assert modules == (*MODULES, "sources.deskfeed")


@pytest.mark.parametrize(("kind", "prefix"), [(settings.Settings, ""), (settings.UpstreamSettings, "…_")])
def test_every_setting_stands_in_the_readme_with_its_default_and_meaning(kind: type, prefix: str) -> None:
    for name, default, about in settings.table(kind):
        assert f"| `{prefix}{name}` | {f'`{default}`' if default else ''} | {about} |" in README


def test_every_path_that_the_readme_names_is_one_of_the_api(settings: settings.Settings) -> None:
    rules = {re.sub(r"<[^>]*>", "<>", rule.rule) for rule in create_app(settings).url_map.iter_rules()}
    table = README[README.index("## The API") : README.index("## Add a source")]
    named = {re.sub(r"<[^>]*>", "<>", path) for path in re.findall(r"`(?:GET |POST )?(/[a-z/<>]+)`", table)}
    relative = {"/resume"}
    assert len(named) > 12
    assert named - relative - rules == set()


def test_every_target_that_the_readme_names_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", README)) <= targets


def test_every_file_that_the_readme_links_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
