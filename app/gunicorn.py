"""Configure gunicorn for the API: `gunicorn --config app/gunicorn.py`."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog
from gunicorn.glogging import Logger

from settings import SettingsError, get_settings
from tasks.runtime.logs import configure_logging

log = structlog.get_logger("app.gunicorn")


class _RootLogger(Logger):
    """Pass gunicorn's own log lines to the root logger, so that they have the same format as all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "").strip() or str(default)
    if not value.isdecimal() or not 1 <= int(value) <= 65535:
        sys.exit(f"{name} is {value!r}, expected a whole number from 1 to 65535.")
    return int(value)


try:
    configure_logging(get_settings())
    broken_sources = import_module("tasks.runtime.broken_sources")  # raises SettingsError for a misspelt setting
except SettingsError as error:
    sys.exit(str(error))


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker also runs this when it exits
        shutil.rmtree(folder, ignore_errors=True)


if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    # prometheus_client reads this variable on import, so this file must not import the application at the top.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="kasparro-metrics-")
    atexit.register(_remove, os.environ["PROMETHEUS_MULTIPROC_DIR"], os.getpid())

bind = f"{os.environ.get('WEB_HOST') or '127.0.0.1'}:{_number('WEB_PORT', 8000)}"
workers = _number("WEB_WORKERS", 2)
threads = 8
worker_class = "gthread"
wsgi_app = f"app:create_app(connections={threads})"
preload_app = True
# STATEMENT_TIMEOUT cancels a query. A worker that still sends no heartbeat 30 s later is stuck.
timeout = int(get_settings().statement_timeout) + 30
graceful_timeout = 10
limit_request_line = 8190
control_socket_disable = True
logger_class = _RootLogger


def on_starting(server: Any) -> None:
    """Check Postgres once on startup: exit if it is too old, warn if it is unreachable."""
    from sqlalchemy.exc import SQLAlchemyError

    from store.engine import UnsuitablePostgres, check_postgres, make_engine

    broken_sources.log_broken_sources()
    for stale_file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db"):
        stale_file.unlink(missing_ok=True)
    engine = make_engine(get_settings().database_url, "web")
    try:
        check_postgres(engine)
    except UnsuitablePostgres as error:
        sys.exit(str(error))
    except SQLAlchemyError as error:
        log.warning(
            "database_unavailable",
            reason=type(error).__name__,
            then="responding with 503 until the database is reachable",
        )
    finally:
        engine.dispose()


def post_fork(server: Any, worker: Any) -> None:
    from app.web.context import discard_connections

    discard_connections(server.app.callable)


def child_exit(server: Any, worker: Any) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
