"""Find the calls in the code, for tests that compare the code with its catalogs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.processes import ROOT

FOLDERS = ("app", "sources", "tasks")


def calls() -> Iterator[ast.Call]:
    """Yield every call in the code of the service."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield from (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))


def texts(node: ast.AST) -> Iterator[str]:
    """Yield every string constant within an expression."""
    return (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant) and isinstance(inner.value, str))
