"""Log the broken sources once, when a process starts."""

from __future__ import annotations

import structlog

from sources.registry import BROKEN

log = structlog.get_logger()


def log_broken_sources() -> None:
    """Log an error for each broken source. The other sources run."""
    for source in BROKEN.values():
        log.error("source_broken", source=source.name, reason=source.detail)
