"""Serve the hello with the API's gunicorn settings, without the API's hooks for starting and ending processes."""

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
