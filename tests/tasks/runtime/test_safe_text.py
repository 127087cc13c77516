"""Error texts are stored short, without secrets, and without characters that Postgres refuses."""

from __future__ import annotations

import pytest

from sources.contract import TransientError
from tasks.runtime import logs
from tasks.runtime.safe_text import MAX_DETAIL_CHARS, safe_text
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


def test_an_error_text_is_stored_short_and_without_characters_that_postgres_refuses(bench: Bench) -> None:
    def fail(number: int) -> None:
        raise TransientError("a\x00b\ud800" + "x" * 5000)

    run = bench.ingest(canned([item(0)], before=fail))
    assert run["status"] == "waiting"
    assert run["waiting_reason"].startswith("upstream_unavailable: ab?xxx")
    assert 2000 <= len(run["waiting_reason"]) < 2050


def test_a_secret_is_removed_even_where_the_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINGECKO_API_KEY", "the-key-of-coingecko")
    logs._redactor.cache_clear()
    try:
        text = safe_text("x" * (MAX_DETAIL_CHARS - 10) + "the-key-of-coingecko")
    finally:
        monkeypatch.undo()
        logs._redactor.cache_clear()
    assert text == "x" * (MAX_DETAIL_CHARS - 10) + "[hidden]"
