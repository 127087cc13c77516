"""Watch runs and leases during a fault, for failures that leave no trace afterwards."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from sources.contract import EPOCH

if TYPE_CHECKING:
    from tests.chaos.stage import Stage

POLL_INTERVAL = 0.1

State = tuple[uuid.UUID, str, int]
"""A run's id, status and number of claims. A run has made progress if its status or claims have changed."""

RUNS = """
    SELECT r.id, r.status, r.claims,
           (SELECT count(*) FROM checkpoints WHERE lease_run = r.id AND lease_expires > service_time()) AS leases,
           status = 'queued' OR status = 'waiting' AND next_attempt_at <= service_time() AS due
      FROM runs AS r WHERE status IN ('queued', 'running', 'waiting')
"""

# A component with a recent heartbeat has consumed a sweep or a canary message.
OLDEST_HEARTBEAT = "SELECT min(beaten_at) FROM heartbeats WHERE part IN ('control', 'worker')"

LEASES = "SELECT source, partition, lease_run, lease_token, version FROM checkpoints"


class Watch:
    """A thread that watches the stage. max_stuck: the longest time that a run was stuck, in seconds.

    A run is stuck if it is `running` without a live lease, or due while a worker is free. Time counts only while the
    service could act: not during an outage, and not before a worker and a control process are ready and consume again.
    failures: decreasing lease tokens or checkpoint versions, in words.
    """

    def __init__(self, stage: Stage):
        self._stage = stage
        self.outages, self.outage_until = 0, EPOCH
        self.max_stuck, self.max_stuck_run = 0.0, ""
        self.failures: list[str] = []
        self._overdue: dict[State, float] = {}
        self._leases: dict[tuple[str, str], tuple[int, int]] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Stop watching during the block, which replaces the database. Discard earlier observations."""
        with self._lock:
            yield
            self.max_stuck, self.failures, self.outage_until = 0.0, [], EPOCH
            self._overdue, self._leases = {}, {}

    @contextmanager
    def accepting_earlier_leases(self) -> Iterator[None]:
        """Stop watching during the block, which sets the database back to earlier tokens and versions."""
        with self._lock:
            yield
            self._overdue, self._leases = {}, {}

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(POLL_INTERVAL):
            with self._lock:
                try:
                    self._poll()
                except SQLAlchemyError:
                    self._overdue.clear()  # No run can make progress without the database.
                except Exception as error:  # noqa: BLE001 — report that the watch failed
                    self.failures.append(f"the watch failed: {error!r}")

    def _poll(self) -> None:
        with self._stage.engine.connect() as connection:
            runs = connection.execute(text(RUNS)).all()
            leases = connection.execute(text(LEASES)).all()
            heartbeat = connection.scalar(text(OLDEST_HEARTBEAT)) or EPOCH
        self._check_runs(runs, is_consuming=heartbeat > self.outage_until)
        self._check_leases(leases)

    def _check_runs(self, runs: Any, *, is_consuming: bool) -> None:
        slots = self._stage.slots()
        free = slots - sum(run.leases for run in runs if run.status == "running")
        cannot_act = self.outages > 0 or not is_consuming or slots == 0 or not self._stage.has_reconciler()
        stuck: set[State] = {
            (run.id, run.status, run.claims)
            for run in runs
            if not cannot_act and (free > 0 if run.due else run.status == "running" and not run.leases)
        }
        now = time.monotonic()
        self._overdue = {state: self._overdue.get(state, now) for state in stuck}
        for (run, status, _), since in self._overdue.items():
            if now - since > self.max_stuck:
                self.max_stuck, self.max_stuck_run = now - since, f"run {run}, {status}"

    def _check_leases(self, leases: Any) -> None:
        """Check that lease tokens and checkpoint versions never decrease."""
        for row in leases:
            key, current = (row.source, row.partition), (row.lease_token, row.version)
            previous = self._leases.get(key, (0, 0))
            if current[0] < previous[0] or current[1] < previous[1]:
                self.failures.append(f"{key}: token and version went from {previous} to {current}")
            self._leases[key] = current
