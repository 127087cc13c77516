"""Disturb the servers, the clock, the schema and a file in steps of a random round."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from store.schema import REVISIONS
from tests.chaos.data_copies import DataCopy
from tests.chaos.history_file import CHANGES, Change, HistoryFile
from tests.chaos.migrations import Migrations
from tests.chaos.stage import Stage

STEP_PAUSES = (0, 0.05, 0.2, 0.6)
"""Seconds between two steps. One of these values is chosen at random."""

WORK_SECONDS = 0.6
"""Seconds of work that a set-back to a moment ago loses."""

CLOCK_OFFSETS = {-86_400: "a day behind", -60: "a minute behind", 0: "right", 86_400: "a day ahead"}
EARLIER_REVISIONS = REVISIONS[-6:-1]

Step = Callable[..., None]


def step(act: Step) -> Step:
    """Record the exception of a step, and do not draw the step twice in a row.

    If Hypothesis saw the exception, it would run the round again.
    """

    @wraps(act)
    def record_errors(self: ServerSteps, *arguments: Any, **drawn: Any) -> None:
        self.last_step = act.__name__
        try:
            act(self, *arguments, **drawn)
        except Exception as error:  # noqa: BLE001 — the round is checked whatever was raised
            self.failures.append(f"{act.__name__}: {type(error).__name__}: {error}")

    def is_another(self: ServerSteps) -> bool:
        return self.last_step != act.__name__

    return cast(Step, precondition(is_another)(record_errors))


@dataclass
class Props:
    """What the rounds of a stage disturb. copy: the state of Postgres that a set-back restores."""

    file: HistoryFile
    copy: DataCopy
    migrations: Migrations

    @classmethod
    def of(cls, stage: Stage) -> Props:
        """Return the props of a stage that has not started any process."""
        return cls(HistoryFile(stage), DataCopy(stage.servers.postgres), Migrations(stage))


class ServerSteps(RuleBasedStateMachine):
    """The steps that disturb anything but the service's own processes and runs."""

    def __init__(self, stage: Stage, props: Props, counts: Counter[str]):
        super().__init__()
        self._stage, self._props, self._counts = stage, props, counts
        self._steps: list[str] = []
        self.failures: list[str] = []
        self.last_step = ""
        self._random = random.Random(f"{stage.servers.seed} {counts['rounds']}")
        self._has_changed_file = False

    def _finish_step(self, kind: str, detail: str = "") -> None:
        """Count a step under `kind`, and pause before the next step."""
        self._steps.append(f"{kind} {detail}".strip())
        self._counts[kind] += 1
        self._stage.mark_fault()
        time.sleep(self._random.choice(STEP_PAUSES))

    @rule()
    @step
    def empty_redis(self) -> None:
        with self._stage.outage():
            self._stage.broker.flushall()
        self._finish_step("FLUSHALL")

    @rule(kill=st.booleans())
    @step
    def restart_redis(self, kill: bool) -> None:
        with self._stage.outage():
            self._stage.valkey.kill() if kill else self._stage.valkey.stop()
            self._stage.valkey.start()
        self._finish_step("Redis restarts", "after a kill" if kill else "")

    @rule()
    @step
    def cut_connections_to_postgres(self) -> None:
        self._stage.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        self._finish_step("cut connections")

    @rule()
    @step
    def restart_postgres(self) -> None:
        with self._stage.outage():
            self._stage.postgres.kill()
            self._stage.postgres.start()
        self._finish_step("Postgres restarts", "after a kill")

    @rule(recent=st.booleans())
    @step
    def set_back_postgres(self, recent: bool) -> None:
        """Restore the last copy of Postgres. recent: copy it now, and let the service work for a moment first."""
        if recent:
            self._props.copy.take()
            time.sleep(WORK_SECONDS)
        with self._stage.set_back():
            self._props.copy.restore()
        self._finish_step("set-backs of Postgres", "to a moment ago" if recent else "to the last copy")

    @precondition(lambda self: self._stage.servers.stepped)
    @rule(seconds=st.sampled_from(sorted(CLOCK_OFFSETS)))
    @step
    def set_the_clock(self, seconds: int) -> None:
        self._stage.servers.set_clock(seconds)
        self._finish_step("clock steps", CLOCK_OFFSETS[seconds])

    @rule(revision=st.sampled_from(EARLIER_REVISIONS))
    @step
    def migrate(self, revision: str) -> None:
        """Migrate the schema in the background. The next steps happen meanwhile."""
        self._props.migrations.start(revision)
        self._finish_step("migrations", f"from {revision}")

    @rule(change=st.sampled_from(CHANGES))
    @step
    def change_a_file(self, change: Change) -> None:
        self._props.file.change(change)
        self._has_changed_file = True
        self._finish_step("changes of a file", f"by {change}")
