"""The reference pages describe the code: every table is fresh, and every code and event that exists is documented."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.reference import generate
from sources.reject_codes import REJECT_CODES
from store.tables import RUN_STATUSES
from tasks.runs import codes
from tasks.runtime.log_events import EVENTS

PAGES = sorted(generate.PAGES.glob("*.md"))
FOLDERS = ("app", "sources", "tasks")


def calls() -> Iterator[ast.Call]:
    for folder in FOLDERS:
        for file in sorted((generate.ROOT / folder).rglob("*.py")):
            yield from (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))


def texts(node: ast.AST) -> Iterator[str]:
    return (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant) and isinstance(inner.value, str))


def run_codes() -> set[str]:
    """Return the code of every error that makes a run wait or fail."""
    found = {"upstream_unavailable", "upstream_refused"}  # Defaults of TransientError and TerminalError.
    for call in calls():
        name = ast.unparse(call.func).rpartition(".")[2]
        if name in ("TransientError", "TerminalError"):
            chosen = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
            found |= {text for value in chosen if not isinstance(value, ast.Subscript) for text in texts(value)}
        elif name in ("fail", "_give_up", "_wait") and len(call.args) > 2:
            found |= {text for argument in call.args[2:4] for text in texts(argument) if text.isidentifier()}
    return found


def reject_codes() -> set[str]:
    """Return the code of every reason for which an item is rejected."""
    found = {"missing", "no_price", "unknown_field"}  # Declared as messages of fields in sources/record.py.
    for call in calls():
        name = ast.unparse(call.func)
        if name == "_wrong" or name == "Unreadable":
            found |= set(texts(call.args[0]))
        elif name == "Reject" and len(call.args) == 3:
            found |= set(texts(call.args[1]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tables_of_a_page_are_fresh(page: Path) -> None:
    assert page.read_text() == generate.generated(page.read_text()), "run `make reference`"


def test_each_table_stands_on_a_page() -> None:
    found = [match[2] for page in PAGES for match in generate.TABLE.finditer(page.read_text())]
    assert sorted(found) == sorted(generate.TABLES)


def test_every_logged_event_is_documented_and_every_documented_one_logged() -> None:
    assert set(generate.logged_events()) == set(EVENTS)


def test_every_code_of_a_run_is_documented() -> None:
    codes_found = run_codes()
    assert len(codes_found) > 25
    assert codes_found <= set(codes.WAITING) | set(codes.FAILED)


def test_every_state_of_a_run_is_documented() -> None:
    assert set(RUN_STATUSES) == set(codes.STATES)


def test_every_reject_code_is_documented() -> None:
    assert len(reject_codes()) > 12
    assert reject_codes() <= set(REJECT_CODES)
