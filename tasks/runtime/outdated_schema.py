"""Log that the database's schema is older or newer than this version, without repeating it at each attempt."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from store.errors import SchemaBehind
from store.schema import behind, is_behind, is_newer

log = structlog.get_logger()

LOG_INTERVAL = 60.0
"""Seconds between two log lines of a process about the same schema."""


class SchemaLog:
    """The log of an outdated or newer schema. clock: returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quiet_until = 0.0
        self._newer_logged = False

    def error(self, error: Exception) -> bool:
        """Log an error if an outdated schema caused it, at most once in LOG_INTERVAL. Return whether the schema did."""
        if not isinstance(error, SchemaBehind):
            return False
        if self._clock() >= self._quiet_until:
            self._quiet_until = self._clock() + LOG_INTERVAL
            log.error("schema_behind", reason=str(error))
        return True

    def revision(self, revision: str | None) -> None:
        """Log an older revision at most once in LOG_INTERVAL, and a newer revision once per process."""
        if is_behind(revision):
            self.error(behind(revision))
        elif is_newer(revision) and not self._newer_logged:
            self._newer_logged = True
            log.warning("schema_newer", revision=revision, reason="a newer version has migrated the database")


schema_log = SchemaLog()
"""The log of this process."""
