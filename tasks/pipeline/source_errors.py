"""Turn an exception in a source's own functions into an error that names its text, file and line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from billiard.exceptions import SoftTimeLimitExceeded

from sources.contract import DeclarationError, Source, TerminalError, TransientError
from sources.faults import author_line, describe_error
from tasks.runtime.logs import hide_secrets
from tasks.runtime.retry import DATABASE_ERRORS

log = structlog.get_logger()

SOURCE_ERROR = "source_error"


@contextmanager
def own_code(source: Source) -> Iterator[None]:
    """Raise TerminalError for an exception that a line of the source's author caused. Pass all other errors on."""
    try:
        yield
    except (TransientError, TerminalError, SoftTimeLimitExceeded, *DATABASE_ERRORS):
        raise
    except Exception as error:
        detail = describe_source_error(source, error)
        if detail is None:
            raise
        log.exception("source_failed", reason=detail)
        raise TerminalError(detail, code=SOURCE_ERROR) from error


def describe_source_error(source: Source, error: Exception) -> str | None:
    """Return the text, file and line of an error that the source's author can correct, without secrets.

    Return None if no line of the author is involved.
    """
    line = author_line(error, source)
    if line is None:
        return None
    # A declaration error names its line itself.
    where = "" if isinstance(error, DeclarationError) else f" ({line})"
    return hide_secrets(f"{source.name}: {describe_error(error)}{where}")
