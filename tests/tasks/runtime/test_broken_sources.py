"""Test that each broken source is logged when a process starts."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from sources.registry import BROKEN, BrokenSource
from tasks.runtime.broken_sources import log_broken_sources


def test_each_broken_source_is_logged_with_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BROKEN, "desk", BrokenSource("desk", "deskfeed", "deskfeed.py:5: Rate is wrong"))
    with capture_logs() as logs:
        log_broken_sources()
    assert [(log["event"], log["source"], log["reason"]) for log in logs] == [
        ("source_broken", "desk", "deskfeed.py:5: Rate is wrong")
    ]
