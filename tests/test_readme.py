"""Test that the README and guides match the code: sources work, and named settings, paths and commands exist."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import Engine, text

import settings
from app import create_app
from devstack.state_folder import free_port, is_port_free
from sources import Page, TransientError
from sources.registry import MODULES
from tests.processes import Process, until

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
HTTP_GUIDE = (ROOT / "docs/howto/add-http-source.md").read_text()
CSV_GUIDE = (ROOT / "docs/howto/add-csv-source.md").read_text()
SETTINGS = (ROOT / "docs/reference/settings.md").read_text()
GUIDES = [ROOT / "README.md", ROOT / "docs/quickstart.md", *sorted((ROOT / "docs/howto").glob("*.md"))]
PRICES = [
    {"id": "x1", "ticker": "BTC", "title": "Bitcoin", "usd": "1.10", "at": "2026-01-01T00:00:00Z"},
    {"id": "x2", "ticker": "ETH", "title": "Ethereum", "usd": 2e-9, "at": "2026-01-01T00:00:00Z"},
    {"id": "x3", "ticker": "BAD", "title": "Bad", "usd": "much", "at": "2026-01-01T00:00:00Z"},
]


Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, engine: Engine, start: Callable[..., Process]) -> Run:
    """Return a function that runs a page's example source outside the repository, and returns the status of the run.

    The source is the Python example whose docstring begins with `begins`.
    """

    def run_source(page: str, begins: str, name: str, **environ: str) -> str:
        code = example(page, begins)
        assert len(code.splitlines()) <= 50
        (tmp_path / f"{name}.py").write_text(code)
        path = os.pathsep.join((str(tmp_path), str(ROOT)))
        for role in ("worker", "control", "beat"):
            start(role, EXTRA_SOURCES=name, PYTHONPATH=path, **environ)
        return until(lambda: _status(engine, name))

    return run_source


def example(page: str, begins: str) -> str:
    [code] = re.findall(rf"```python\n(\"\"\"{begins}.*?)```", page, re.DOTALL)
    return str(code)


def _status(engine: Engine, source: str) -> str | None:
    """Return the status of the source's finished run, or None if no run has finished."""
    with engine.connect() as connection:
        query = text("SELECT status FROM runs WHERE source = :source AND finished_at IS NOT NULL")
        status: str | None = connection.execute(query, {"source": source}).scalar_one_or_none()
    return status


def quotes(engine: Engine, source: str) -> list[tuple[str, datetime, Decimal]]:
    with engine.connect() as connection:
        query = text(
            "SELECT symbol, observed_at, price FROM quotes JOIN listings ON id = listing_id"
            " WHERE source = :source ORDER BY 1"
        )
        return [tuple(row) for row in connection.execute(query, {"source": source})]


def test_the_example_source_of_the_readme_works_unchanged(run: Run, engine: Engine, httpserver: HTTPServer) -> None:
    key = {"headers": {"X-Api-Key": "the desk's key".replace(" ", "-")}}
    for number, items in enumerate([*([price] for price in PRICES), []], start=1):
        httpserver.expect_request("/prices", query_string={"page": str(number)}, **key).respond_with_json(items)
    status = run(
        README,
        "The desk's own price feed",
        "deskfeed",
        DESKFEED_URL=httpserver.url_for("").rstrip("/"),
        DESKFEED_API_KEY=key["headers"]["X-Api-Key"],
        DESKFEED_EVERY="3600",
    )
    assert status == "partial"
    new_year = datetime(2026, 1, 1, tzinfo=UTC)
    assert quotes(engine, "deskfeed") == [("BTC", new_year, Decimal("1.10")), ("ETH", new_year, Decimal("2e-9"))]


@pytest.fixture
def stub() -> Iterator[str]:
    """Yield the URL of the stub in the HTTP guide."""
    port = free_port()
    code = example(HTTP_GUIDE, "Stand in for the desk's price feed")
    assert code.count("8900") == 1
    with subprocess.Popen([sys.executable, "-c", code.replace("8900", str(port))], stderr=subprocess.DEVNULL) as stub:
        try:
            until(lambda: not is_port_free(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            stub.kill()


def test_the_stub_of_the_http_guide_gives_the_printed_first_run(run: Run, engine: Engine, stub: str) -> None:
    begins = "The desk's own price feed"
    status = run(HTTP_GUIDE, begins, "deskfeed", DESKFEED_URL=stub, DESKFEED_API_KEY="the-desks-key")
    with engine.connect() as connection:
        query = text("SELECT sum(fetched), sum(inserted), sum(rejected) FROM pages WHERE source = 'deskfeed'")
        fetched, inserted, rejected = connection.execute(query).one()
    printed = f"deskfeed       {status}: {fetched} items, {inserted} new, {rejected} rejected"
    assert printed in HTTP_GUIDE


def tried(page: str, begins: str, name: str, folder: Path, *options: str, **environ: str) -> str:
    """Return what `python -m tasks try` prints about a page's example source."""
    (folder / f"{name}.py").write_text(example(page, begins))
    command = [sys.executable, "-m", "tasks", "try", name, *options]
    environ = {**os.environ, **environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True).stdout


def pattern_of_try(page: str) -> str:
    """Return the output of `python -m tasks try` on a page as a pattern, where `…` stands for anything."""
    [output] = re.findall(r"```console\n\$ [^\n]*tasks try [^\n]*\n(.*?)```", page, re.DOTALL)
    return ".*".join(map(re.escape, output.replace("8900", "…").split("…")))


def test_trying_the_source_of_the_http_guide_prints_what_it_shows(tmp_path: Path, stub: str) -> None:
    environ = {"DESKFEED_URL": stub, "DESKFEED_API_KEY": "the-desks-key"}
    output = tried(HTTP_GUIDE, "The desk's own price feed", "deskfeed", tmp_path, **environ)
    assert re.fullmatch(pattern_of_try(HTTP_GUIDE), output, re.DOTALL), output


def test_trying_the_source_of_the_csv_guide_prints_what_it_shows(tmp_path: Path) -> None:
    [content] = re.findall(r"printf '(day;.*?)' > ", CSV_GUIDE)
    file = tmp_path / "closes/2026.csv"
    file.parent.mkdir()
    file.write_text(content.replace("\\n", "\n"))
    output = tried(CSV_GUIDE, "The desk's closing prices", "closes", tmp_path, "--file", str(file))
    assert re.fullmatch(pattern_of_try(CSV_GUIDE), output, re.DOTALL), output


def test_an_error_object_is_retried_by_the_example_source(tmp_path: Path) -> None:
    module = tmp_path / "deskfeed.py"
    module.write_text(example(README, "The desk's own price feed"))
    source = runpy.run_path(str(module))["source"]
    page = Page(b'{"error": "maintenance"}', "application/json", {}, datetime(2026, 1, 1, tzinfo=UTC), None)
    with pytest.raises(TransientError, match="expected a list"):
        source.parse(page)


def test_the_http_guide_has_the_same_example_source_as_the_readme() -> None:
    begins = "The desk's own price feed"
    assert example(HTTP_GUIDE, begins) == example(README, begins)


def test_the_example_source_of_the_csv_guide_reads_the_described_file(run: Run, engine: Engine, tmp_path: Path) -> None:
    [(header, line)] = re.findall(r"lines\sare\s`(.*?)`\sand\sthen\s`(.*?)`", CSV_GUIDE)
    (tmp_path / "closes").mkdir()
    (tmp_path / "closes" / "2026.csv").write_text(f"{header}\n{line}\n")
    assert run(CSV_GUIDE, "The desk's closing prices", "closes", CSV_DIR=str(tmp_path)) == "succeeded"
    assert quotes(engine, "closes") == [("BTC", datetime(2026, 1, 31, tzinfo=UTC), Decimal("93340.5"))]


@pytest.mark.parametrize(
    ("page", "module"),
    [(README, "deskfeed"), (HTTP_GUIDE, "deskfeed"), (CSV_GUIDE, "closes")],
    ids=["readme", "http", "csv"],
)
def test_the_registry_line_of_each_page_registers_its_source(page: str, module: str) -> None:
    [line] = re.findall(r"`MODULES` of `sources/registry.py`.*?```\n(.*?\n)```", page, re.DOTALL)
    registry = (ROOT / "sources" / "registry.py").read_text()
    assert '    "sources.csv_history",\n' in registry
    registered = ast.parse(registry.replace('    "sources.csv_history",\n', '    "sources.csv_history",\n' + line))
    [modules] = [
        ast.literal_eval(node.value)
        for node in registered.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES"
    ]
    assert modules == (*MODULES, f"sources.{module}")


@pytest.mark.parametrize(("kind", "prefix"), [(settings.Settings, ""), (settings.SourceSettings, "…_")])
def test_the_reference_lists_every_setting_with_its_default_and_meaning(kind: type, prefix: str) -> None:
    for name, default, about in settings.table(kind):
        assert f"| `{prefix}{name}` | {f'`{default}`' if default else ''} | {about} |" in SETTINGS


def test_every_path_in_the_readme_exists(settings: settings.Settings) -> None:
    rules = {re.sub(r"<[^>]*>", "<>", rule.rule) for rule in create_app(settings).url_map.iter_rules()}
    table = README[README.index("## The API") : README.index("## Add a source")]
    paths = {re.sub(r"<[^>]*>", "<>", path) for path in re.findall(r"`(?:GET |POST )?(/[a-z/<>]+)`", table)}
    relative = {"/resume"}
    assert len(paths) > 12
    assert paths - relative - rules == set()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_every_path_that_a_page_requests_exists(page: Path, settings: settings.Settings) -> None:
    adapter = create_app(settings).url_map.bind("127.0.0.1")
    requests = [("", path) for path in re.findall(r"http://127\.0\.0\.1:8000(/[^\s'\"`?]*)", page.read_text())]
    requests += re.findall(r"`(GET|POST) (/[^\s`?]*)", page.read_text())
    example_paths = [("GET", "/prices")]
    for method, path in requests:
        allowed = [*adapter.allowed_methods(re.sub(r"<[^>]*>", str(uuid4()), path))]
        assert (method in allowed if method else allowed) or (method, path) in example_paths, f"{method} {path}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_every_make_target_on_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ )make ([a-z]+)", page.read_text())) <= targets


def test_every_file_linked_from_the_readme_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
