"""Test that the Celery app publishes quickly or fails, and reports an invalid setting without a traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import redis
from kombu.exceptions import OperationalError

from tasks.celery import Service, celery, verifying_url
from tests.processes import ROOT, Processes, until
from tests.tls import encrypted


def test_every_task_has_its_name_and_the_control_queue_is_the_default() -> None:
    celery.loader.import_default_modules()
    names = {name for name in celery.tasks if name.startswith("kasparro.")}
    assert names == {
        f"kasparro.{name}"
        for name in ("ingest", "assist", "reconcile", "retain", "judge", "verify", "rematch", "look_again", "canary")
    }
    assert celery.conf.task_default_queue == "control"
    assert celery.conf.beat_scheduler == "tasks.schedule:SlotScheduler"


def test_only_an_ingest_worker_restarts_its_processes(processes: Processes) -> None:
    workers = processes.start("worker"), processes.start("control")
    processes.until_ready(*workers)

    def limits() -> dict[str, int | str] | None:
        stats = celery.control.inspect(timeout=1).stats() or {}
        limits = {name.partition("@")[0]: values["pool"]["max-tasks-per-child"] for name, values in stats.items()}
        return limits if len(limits) == len(workers) else None

    assert until(limits) == {"worker": 200, "control": "N/A"}


def test_publishing_to_an_unresponsive_redis_fails_within_seconds() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:  # Accepts connections, but never responds.
        app = Service("test", broker=f"redis://127.0.0.1:{mute.getsockname()[1]}/0")
        app.conf.update(result_backend=None, broker_transport_options=celery.conf.broker_transport_options)
        start = time.monotonic()
        with pytest.raises(OperationalError):
            app.send_task("kasparro.ingest", queue="ingest", retry=False)
        assert time.monotonic() - start < 5
        app.close()


def publish(url: str) -> None:
    """Publish a message as the service does, on a new connection."""
    app = Service("test", broker=verifying_url(url))
    app.conf.update(result_backend=None, broker_transport_options=celery.conf.broker_transport_options)
    try:
        app.send_task("kasparro.ingest", queue="ingest", retry=False)
    finally:
        app.close()


@pytest.mark.parametrize(
    ("query", "is_accepted"),
    [
        ("", False),
        ("?ssl_check_hostname=true", False),
        ("?ssl_cert_reqs=required", False),
        ("?ssl_ca_certs={authority}", True),
        ("?ssl_cert_reqs=none", True),
    ],
)
def test_every_client_verifies_the_certificate_of_redis(
    broker: redis.Redis, tmp_path: Path, query: str, is_accepted: bool
) -> None:
    with encrypted(os.environ["REDIS_URL"], tmp_path) as (url, authority):
        url += query.format(authority=authority)
        if is_accepted:
            publish(url)
            assert redis.Redis.from_url(url).ping()
        else:
            with pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
                publish(url)
            with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                redis.Redis.from_url(url).ping()
    assert broker.llen("ingest") == is_accepted


def test_a_url_without_tls_is_unchanged() -> None:
    assert verifying_url("redis://:p%40ss@host:6379/0?x=1") == "redis://:p%40ss@host:6379/0?x=1"
    assert verifying_url("rediss://:p%40ss@host/0") == "rediss://:p%40ss@host/0?ssl_cert_reqs=required"


@pytest.mark.parametrize(
    ("name", "value"), [("LEASE", "much"), ("RUN_WORKRES", "5")], ids=["wrong value", "misspelt name"]
)
def test_an_invalid_setting_ends_the_process_and_is_named(name: str, value: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), name: value}
    process = subprocess.run([sys.executable, "-c", "import tasks.celery"], env=environ, capture_output=True, text=True)
    assert process.returncode == 1
    header, error = process.stderr.splitlines()
    assert header == "These settings are wrong or missing:"
    assert error.startswith(f"  {name}: ")
