"""Test that stored error texts are truncated, without secrets, and valid for Postgres."""

from __future__ import annotations

import pytest

from sources.contract import TransientError
from sources.redaction import process_redactor
from tasks.runtime.safe_text import MAX_DETAIL_CHARS, safe_text
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


def test_a_stored_error_is_truncated_and_contains_only_valid_characters(bench: Bench) -> None:
    def fail(number: int) -> None:
        raise TransientError("a\x00b\ud800" + "x" * 5000)

    run = bench.ingest(canned([item(0)], before=fail))
    assert run["status"] == "waiting"
    assert run["waiting_reason"].startswith("upstream_unavailable: ab?xxx")
    assert 2000 <= len(run["waiting_reason"]) < 2050


def test_a_secret_is_removed_even_at_the_end_of_a_truncated_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINGECKO_API_KEY", "the-key-of-coingecko")
    process_redactor.cache_clear()
    try:
        text = safe_text("x" * (MAX_DETAIL_CHARS - 10) + "the-key-of-coingecko")
    finally:
        monkeypatch.undo()
        process_redactor.cache_clear()
    assert text == "x" * (MAX_DETAIL_CHARS - 10) + "[hidden]"
