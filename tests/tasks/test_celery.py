"""Test that the Celery app publishes quickly or fails, and reports an invalid setting without a traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import closing

import pytest
from kombu.exceptions import OperationalError

from tasks.celery import Service, celery
from tests.processes import ROOT, Processes, until


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


@pytest.mark.parametrize(
    ("name", "value"), [("LEASE", "much"), ("COINGECKO_EVERY", "-1")], ids=["of the service", "of a source"]
)
def test_an_invalid_setting_ends_the_process_and_is_named(name: str, value: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), name: value}
    process = subprocess.run([sys.executable, "-c", "import tasks.celery"], env=environ, capture_output=True, text=True)
    assert process.returncode == 1
    header, error = process.stderr.splitlines()
    assert header == "These settings are wrong or missing:"
    assert error.startswith(f"  {name}: ")
