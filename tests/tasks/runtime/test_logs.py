"""Test that every log event is one line, from any logger, and contains no secret of the environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.processes import ROOT

SECRETS = {
    "API_TOKEN": "t0ken-of-the-operator-in-32-chars",
    "COINGECKO_API_KEY": "k3y'of\"coin\\gecko",
    "DATABASE_URL": "postgresql://kasparro:p4ss%2Fw0rd@127.0.0.1:1/kasparro",
    "REDIS_URL": "redis://:v4lkey-p4ssw0rd@127.0.0.1:1/0",
    "FLOWER_BASIC_AUTH": "kasparro:fl0wer-p4ssw0rd",
}
HIDDEN = (SECRETS["API_TOKEN"], SECRETS["COINGECKO_API_KEY"], "p4ss%2Fw0rd", "p4ss/w0rd", "v4lkey-p", "fl0wer-p")

PREPARE = """
import logging, os, structlog
from settings import get_settings
from tasks.runtime.logs import configure_logging
configure_logging(get_settings())
log, other = structlog.get_logger("tasks.ingest"), logging.getLogger("a.library")
KEY, TOKEN, PASSWORD = os.environ["COINGECKO_API_KEY"], os.environ["API_TOKEN"], "p4ss/w0rd"
"""

Logged = Callable[..., list[str]]


@pytest.fixture
def logged() -> Logged:
    """Return a function that runs a script in a process with these secrets and returns its log lines."""

    def logged(script: str, form: str = "json", environ: Mapping[str, str] | None = None) -> list[str]:
        process = subprocess.run(
            [sys.executable, "-W", "error", "-c", PREPARE + script],
            env={**os.environ, **SECRETS, "LOG_FORMAT": form, "PYTHONPATH": str(ROOT), **(environ or {})},
            check=True,
            capture_output=True,
            text=True,
        )
        assert process.stdout == ""
        return process.stderr.splitlines()

    return logged


def events(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


LEAKS = """
log.info("event " + KEY)
log.info("in a value", key=KEY, url=os.environ["DATABASE_URL"])
log.info("in an argument %s", TOKEN)
log.info("nested", request={"headers": {"x-key": KEY, KEY: 1}, "list": [TOKEN, (PASSWORD, {KEY})]})
log.info("objects", error=ValueError(TOKEN), bytes=TOKEN.encode(), path=os.path.join("/", TOKEN))
other.warning("an argument: %s, %r", TOKEN, {"key": [TOKEN]})
other.warning("named: %(key)s", {"key": KEY})
other.warning("an extra", extra={"header": KEY})
other.warning("%d is no number", TOKEN)
other.warning("too %s many", KEY, TOKEN)
try:
    try:
        raise ValueError(PASSWORD)
    except ValueError as error:
        raise RuntimeError(f"GET https://host/?key={KEY}") from error
except RuntimeError:
    log.exception("slice_crashed", key=KEY)
    other.exception("failed with %s", TOKEN)
    other.error("again", exc_info=True, stack_info=True)
with structlog.contextvars.bound_contextvars(token=TOKEN):
    log.info("bound")
log.bind(token=TOKEN).info("bound to the logger")
log.info("the end", flower=os.environ["FLOWER_BASIC_AUTH"], redis=os.environ["REDIS_URL"])
"""


def remove_escapes(text: str) -> str:
    """Return the text without quotes and backslashes, because repr and JSON add some."""
    return re.sub(r"[\\'\"]", "", text)


@pytest.mark.parametrize("form", ["json", "console", "auto"])
def test_no_secret_of_the_environment_is_ever_logged(logged: Logged, form: str) -> None:
    lines = logged(LEAKS, form)
    text = "\n".join(lines)
    for secret in HIDDEN:
        assert remove_escapes(secret) not in remove_escapes(text)
    assert text.count("[hidden]") > 20
    for shown in ("event [hidden]", "x-key", "RuntimeError: GET https://host/?key=[hidden]", "ValueError: [hidden]"):
        assert shown in text
    assert "the end" in lines[-1]


def test_an_event_of_any_logger_is_one_line_of_json(logged: Logged) -> None:
    lines = logged("""
log.info("page_committed", fetched=3, seconds=0.25, ok=True, cursor=None, text="two\\nlines")
other.warning("of the\\nlibrary: %s", "x", extra={"attempt": 2})
log.warning("odd", keys={1: 2, None: 3}, broken="\\ud800", moment=__import__("datetime").date(2026, 1, 2))
""")
    page, library, odd = events(lines)
    assert page.items() >= {"event": "page_committed", "level": "info", "logger": "tasks.ingest"}.items()
    assert page.items() >= {"fetched": 3, "seconds": 0.25, "ok": True, "cursor": None, "text": "two\nlines"}.items()
    assert datetime.fromisoformat(page["timestamp"]).utcoffset() == timedelta(0)
    assert library.items() >= {"event": "of the\nlibrary: x", "level": "warning", "logger": "a.library"}.items()
    assert library["attempt"] == 2
    assert odd.items() >= {"keys": {"1": 2, "None": 3}, "broken": "\ud800", "moment": "2026-01-02"}.items()


def test_every_line_logged_during_a_slice_contains_its_run_and_source(logged: Logged) -> None:
    lines = logged("""
with structlog.contextvars.bound_contextvars(run="run-1", source="coingecko"):
    log.info("slice_started")
    other.warning("of a library")
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("slice_crashed")
log.info("afterwards")
""")
    *inside, after = events(lines)
    assert [(event["run"], event["source"]) for event in inside] == [("run-1", "coingecko")] * 3
    assert "ValueError: no" in inside[-1]["exception"]
    assert "run" not in after


def test_the_console_format_has_tracebacks_but_no_colors_in_a_file(logged: Logged) -> None:
    text = "\n".join(
        logged(
            """
try:
    raise ValueError("no")
except ValueError:
    log.exception("slice_crashed", run="run-1")
""",
            "console",
        )
    )
    assert "slice_crashed" in text
    assert "run=run-1" in text
    assert "Traceback (most recent call last)" in text
    assert text.endswith("ValueError: no")
    assert "\x1b" not in text


def test_an_event_that_cannot_be_formatted_is_reported_with_its_origin(logged: Logged) -> None:
    [event] = events(logged("other.warning('%d', TOKEN)"))
    assert event.items() >= {"event": "event_dropped", "reason": "TypeError", "logger": "a.library"}.items()
    assert event["where"].startswith("<string>:")


@pytest.mark.parametrize(("level", "expected"), [("INFO", ["one", "two"]), ("WARNING", ["two"])])
def test_log_level_sets_the_minimum_logged_level(logged: Logged, level: str, expected: list[str]) -> None:
    script = "other.debug('none'); log.info('one'); log.warning('two'); logging.getLogger('kombu').info('none')"
    assert [event["event"] for event in events(logged(script, environ={"LOG_LEVEL": level}))] == expected
