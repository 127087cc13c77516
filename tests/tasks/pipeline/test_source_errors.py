"""Test which errors are those of a source's author, and that they hide secrets and are logged with their traceback."""

from __future__ import annotations

import os

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from settings import secrets_in
from sources.contract import TerminalError, TransientError
from tasks.pipeline.source_errors import own_code
from tests.upstreams import canned


def test_an_error_of_the_author_becomes_a_terminal_error_with_its_line() -> None:
    [secret, *_] = secrets_in(os.environ)
    with capture_logs() as logs, pytest.raises(TerminalError) as raised, own_code(canned()):
        raise ValueError(f"wrong {secret}")
    assert raised.value.code == "source_error"
    assert raised.value.detail.startswith(
        "canned: ValueError: wrong [hidden] (tests/tasks/pipeline/test_source_errors.py:"
    )
    assert [(log["event"], log["reason"], log["exc_info"]) for log in logs] == [
        ("source_failed", raised.value.detail, True)
    ]


@pytest.mark.parametrize(
    "error",
    [TransientError("down"), TerminalError("gone"), SoftTimeLimitExceeded(), OperationalError("x", {}, Exception())],
)
def test_other_errors_are_raised_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, own_code(canned()):
        raise error
    assert raised.value is error
