"""Serve the "hello" view with the API's gunicorn settings, but without the API's process hooks."""

from app.gunicorn import (  # noqa: F401 — gunicorn reads its settings from this module
    bind,
    control_socket_disable,
    graceful_timeout,
    logger_class,
    preload_app,
    threads,
    timeout,
    worker_class,
    workers,
)

wsgi_app = "tests.bench.hello:app"
