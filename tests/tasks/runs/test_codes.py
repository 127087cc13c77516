"""Test that every status and every code of a run is explained."""

from __future__ import annotations

import ast

from store.tables import RUN_STATUSES
from tasks.runs import codes
from tests.code import calls, texts

DEFAULTS = {"upstream_unavailable", "upstream_refused"}
"""Default codes of TransientError and TerminalError."""


def raised_codes() -> set[str]:
    """Return the code of every error that makes a run wait or fail."""
    raised = set(DEFAULTS)
    for call in calls():
        name = ast.unparse(call.func).rpartition(".")[2]
        if name in ("TransientError", "TerminalError"):
            chosen = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
            raised |= {text for value in chosen if not isinstance(value, ast.Subscript) for text in texts(value)}
        elif name in ("fail_run", "_fail", "_wait") and len(call.args) > 2:
            raised |= {text for argument in call.args[2:4] for text in texts(argument) if text.isidentifier()}
    return raised


def test_every_raised_run_code_is_explained() -> None:
    raised = raised_codes()
    assert {"poisoned", "rate_limited", "columns_missing", "internal_error"} <= raised
    assert raised <= set(codes.WAITING) | set(codes.FAILED)


def test_every_run_status_is_explained() -> None:
    assert set(RUN_STATUSES) == set(codes.STATES)
