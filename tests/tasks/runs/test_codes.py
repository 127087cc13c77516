"""Test that exactly the statuses and the codes of runs are explained."""

from __future__ import annotations

import ast

from sources.http.responses import TERMINAL_STATUSES
from store.tables import RUN_STATUSES
from tasks.runs import codes
from tasks.runs.claims import DISK_FULL
from tests.code import calls, texts

ELSEWHERE = {
    "upstream_unavailable",
    "upstream_refused",
    DISK_FULL,
    *(code for code, _ in TERMINAL_STATUSES.values()),
}
"""The default codes of TransientError and TerminalError, and the codes that constants define."""


def raised_codes() -> set[str]:
    """Return the code of every error that makes a run wait or fail."""
    raised = set(ELSEWHERE)
    for call in calls():
        name = ast.unparse(call.func).rpartition(".")[2]
        if name in ("TransientError", "TerminalError", "FileRefused"):
            chosen = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
            raised |= {text for value in chosen if not isinstance(value, ast.Subscript) for text in texts(value)}
        elif name == "translated_os_errors":
            raised |= set(texts(call.args[1]))
        elif name in ("fail_run", "_fail", "_wait") and len(call.args) > 2:
            raised |= {text for argument in call.args[2:4] for text in texts(argument) if text.isidentifier()}
    return raised


def test_exactly_the_raised_run_codes_are_explained() -> None:
    raised = raised_codes()
    assert {"poisoned", "rate_limited", "columns_missing", "internal_error"} <= raised
    assert raised == set(codes.WAITING) | set(codes.FAILED)


def test_every_run_status_is_explained() -> None:
    assert set(RUN_STATUSES) == set(codes.STATES)
