"""Configure logging: one line per event, as JSON or colored text, without secrets."""

from __future__ import annotations

import logging
import logging.config
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

from settings import Settings
from sources.redaction import process_redactor

EVENT_DROPPED = "event_dropped"
# The INFO messages of these libraries repeat our own events. Only their warnings are logged.
QUIET_LOGGERS = (
    "amqp",
    "celery.app.trace",
    "celery.beat",
    "celery.redirected",
    "celery.worker.strategy",
    "kombu",
    "urllib3",
    "werkzeug",
)


def configure_logging(settings: Settings) -> None:
    """Write structlog's events and the standard library's records to stderr, in the same format."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks become text before secrets are removed. Colors are added last.
    redacting: list[Processor] = [structlog.processors.format_exc_info, _Redacting()]
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    rendering: list[Processor] = [_split_traceback, structlog.processors.JSONRenderer()] if as_json else [console]
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "events": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": [*shared, structlog.stdlib.ExtraAdder()],
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *redacting, *rendering],
                }
            },
            "handlers": {"stderr": {"()": _Handler, "formatter": "events"}},
            "root": {"handlers": ["stderr"], "level": settings.log_level},
            "loggers": {name: {"level": "WARNING"} for name in QUIET_LOGGERS},
        }
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _split_traceback(logger: Any, method: str, event: EventDict) -> EventDict:
    """Return the event with its traceback as a list of lines. As one text with escaped line ends, it is unreadable."""
    if isinstance(traceback := event.get("exception"), str):
        event["exception"] = traceback.splitlines()
    return event


class _Handler(logging.StreamHandler[TextIO]):
    """Log `event_dropped` for an event that cannot be written. The base class would print the event's secrets."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 — logging's name
        if record.msg != EVENT_DROPPED:
            event = {"name": record.name, "levelno": logging.ERROR, "levelname": "ERROR", "msg": EVENT_DROPPED}
            origin = {"where": f"{record.pathname}:{record.lineno}", "reason": type(sys.exception()).__name__}
            self.handle(logging.makeLogRecord(event | origin))


def hide_secrets(text: str) -> str:
    """Return the text with every secret of this process replaced by `[hidden]`."""
    return process_redactor().hide(text)


class _Redacting:
    """Remove every secret of this process from an event: from keys, values and nested values."""

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        return cast(EventDict, self._without_secrets(event))

    def _without_secrets(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._without_secrets(str(key)): self._without_secrets(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._without_secrets(inner) for inner in value]
        if isinstance(value, int | float | None):
            return value
        return hide_secrets(str(value))
