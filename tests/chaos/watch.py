"""Looks at the runs and leases while a fault happens, for what can no more be seen afterwards."""

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

EVERY = 0.1

State = tuple[uuid.UUID, str, int]
"""A run, its status and its claims: of another status, or claimed anew, it has moved."""

LOOK = """
    SELECT r.id, r.status, r.claims,
           (SELECT count(*) FROM checkpoints WHERE lease_run = r.id AND lease_expires > clock_timestamp()) AS leases,
           status = 'queued' OR status = 'waiting' AND next_attempt_at <= clock_timestamp() AS due
      FROM runs AS r WHERE status IN ('queued', 'running', 'waiting')
"""

# Of a part that has worked since, a sweep or a canary was consumed.
HEARTS = "SELECT min(beaten_at) FROM heartbeats WHERE part IN ('control', 'worker')"

LEASES = "SELECT source, partition, lease_run, lease_token, version FROM checkpoints"


class Watch:
    """longest: for how long a run was ever stuck, in seconds, and which. broken: what no moment may show.

    Stuck is a run that is `running` without a live lease, or due while a worker is free. Time counts only while it
    could have been helped: not in an outage, nor after one before a worker and a control process have consumed again,
    nor while there is none of them.
    """

    def __init__(self, stage: Stage):
        self._stage = stage
        self.outages, self.outage_until = 0, EPOCH
        self.longest, self.longest_is = 0.0, ""
        self.broken: list[str] = []
        self._overdue: dict[State, float] = {}
        self._leases: dict[tuple[str, str], tuple[int, int]] = {}
        self._looking, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """The database becomes another one meanwhile: what was seen before says nothing of it."""
        with self._looking:
            yield
            self.longest, self.broken = 0.0, []
            self._overdue, self._leases = {}, {}

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY):
            with self._looking:
                try:
                    self._look()
                except SQLAlchemyError:
                    self._overdue.clear()  # nothing can move without the database
                except Exception as error:  # noqa: BLE001 — or nobody would know that it looks no more
                    self.broken.append(f"the watch cannot look: {error!r}")

    def _look(self) -> None:
        with self._stage.engine.connect() as connection:
            runs = connection.execute(text(LOOK)).all()
            leases = connection.execute(text(LEASES)).all()
            hearts = connection.scalar(text(HEARTS)) or EPOCH
        self._judge_runs(runs, beating=hearts > self.outage_until)
        self._judge_leases(leases)

    def _judge_runs(self, runs: Any, *, beating: bool) -> None:
        slots = self._stage.slots()
        free = slots - sum(run.leases for run in runs if run.status == "running")
        helpless = self.outages > 0 or not beating or slots == 0 or not self._stage.is_controlled()
        stuck: set[State] = {
            (run.id, run.status, run.claims)
            for run in runs
            if not helpless and (free > 0 if run.due else run.status == "running" and not run.leases)
        }
        now = time.monotonic()
        self._overdue = {state: self._overdue.get(state, now) for state in stuck}
        for (run, status, _), since in self._overdue.items():
            if now - since > self.longest:
                self.longest, self.longest_is = now - since, f"run {run}, {status}"

    def _judge_leases(self, leases: Any) -> None:
        """Tokens and versions only rise: each lease is newer than the last, no page is taken back."""
        for row in leases:
            key, seen = (row.source, row.partition), (row.lease_token, row.version)
            before = self._leases.get(key, (0, 0))
            if seen[0] < before[0] or seen[1] < before[1]:
                self.broken.append(f"{key}: token and version went from {before} to {seen}")
            self._leases[key] = seen
