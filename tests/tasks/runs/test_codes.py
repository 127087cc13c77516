"""Test that exactly the statuses and the codes of runs are explained."""

from __future__ import annotations

import ast

from sources.http.responses import CODES_WITHOUT_KEY, TERMINAL_STATUSES
from store.tables import RUN_STATUSES
from tasks.pipeline.source_errors import SOURCE_ERROR
from tasks.runs import codes
from tasks.runs.claims import DISK_FULL
from tests.code import calls, texts

ELSEWHERE = {
    "upstream_unavailable",
    "upstream_refused",
    DISK_FULL,
    SOURCE_ERROR,
    *(code for code, _ in TERMINAL_STATUSES.values()),
    *CODES_WITHOUT_KEY.values(),
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


def judged_codes() -> dict[str, set[str]]:
    """Return the codes of the verdicts about runs that read everything, by status."""
    judged: dict[str, set[str]] = {"failed": set(), "partial": set()}
    for call in calls():
        if ast.unparse(call.func) == "Verdict" and len(call.args) > 1:
            for status in judged.keys() & set(texts(call.args[0])):
                judged[status] |= set(texts(call.args[1]))
    return judged


def test_exactly_the_raised_run_codes_are_explained() -> None:
    raised = raised_codes() | judged_codes()["failed"]
    assert {"poisoned", "rate_limited", "columns_missing", "internal_error"} <= raised
    assert raised == set(codes.WAITING) | set(codes.FAILED)


def test_exactly_the_codes_of_partial_runs_are_explained() -> None:
    assert judged_codes()["partial"] == set(codes.PARTIAL)


def test_every_run_status_is_explained() -> None:
    assert set(RUN_STATUSES) == set(codes.STATES)
