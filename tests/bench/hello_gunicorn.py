"""The hello is served as the API is, but for what the API has to do when a process begins or ends."""

from app.gunicorn import (  # noqa: F401 — gunicorn takes its settings from this module's names
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
