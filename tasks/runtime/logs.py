"""What an operator reads: one line an event, JSON or colours, and no secret in it."""

from __future__ import annotations

import logging
import logging.config
import os
import sys
from functools import cache
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

from settings import Settings, secrets_in

HIDDEN = "[hidden]"
NOT_LOGGED = "event_dropped"
# Libraries that tell at INFO what our own events tell better.
CHATTY = (
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
    """Send structlog's events and the standard library's records the same way out, to stderr."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks become text before secrets are taken out, and colours come after.
    rendered: list[Processor] = [structlog.processors.format_exc_info, _Redactor(secrets_in(os.environ))]
    last = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "events": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": [*shared, structlog.stdlib.ExtraAdder()],
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered, last],
                }
            },
            "handlers": {"stderr": {"()": _Handler, "formatter": "events"}},
            "root": {"handlers": ["stderr"], "level": settings.log_level},
            "loggers": {name: {"level": "WARNING"} for name in CHATTY},
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


class _Handler(logging.StreamHandler[TextIO]):
    """Says that an event could not be written, where logging itself would print it with its arguments, secrets too."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 — logging's name
        if record.msg != NOT_LOGGED:
            known = {"name": record.name, "levelno": logging.ERROR, "levelname": "ERROR", "msg": NOT_LOGGED}
            where = {"where": f"{record.pathname}:{record.lineno}", "error": type(sys.exception()).__name__}
            self.handle(logging.makeLogRecord(known | where))


def hide_secrets(text: str) -> str:
    """The text, with a mark in place of every secret of the environment."""
    return _redactor().hide(text)


@cache
def _redactor() -> _Redactor:
    return _Redactor(secrets_in(os.environ))


class _Redactor:
    """Takes every secret of the environment out of an event, wherever it stands in it."""

    def __init__(self, secrets: tuple[str, ...]):
        # Inside the repr of a set or an exception a secret is written with escapes.
        escaped = [form(secret)[1:-1] for secret in secrets for form in (repr, ascii)]
        self._secrets = sorted({*secrets, *escaped}, key=len, reverse=True)

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        return cast(EventDict, self._without_secrets(event))

    def _without_secrets(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._without_secrets(str(key)): self._without_secrets(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._without_secrets(inner) for inner in value]
        if isinstance(value, int | float | None):
            return value
        return self.hide(str(value))

    def hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text
