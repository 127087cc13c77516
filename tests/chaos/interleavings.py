"""Interleave faults at random, in rounds of steps that Hypothesis draws from a seed. Check each round at its end."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar, cast, get_args

import psutil
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from store.tables import UNFINISHED
from tasks.runtime.fault_points import Point
from tests.chaos.healing import (
    await_stopping,
    frozen_workers,
    heal,
    request_until_complete,
    reset_stage,
    revive,
    staying,
)
from tests.chaos.registry import fault
from tests.chaos.runner import KNOWN, check
from tests.chaos.service import resume_processes
from tests.chaos.stage import Stage

T = TypeVar("T")

MAX_STEPS = 10
STEP_PAUSES = (0, 0.05, 0.2, 0.6)
"""Seconds between two steps. One of these values is chosen at random."""

LONG_RUNS = {"CSV_BLOCK_BYTES": "4096", "CSV_RANGE_BYTES": "12288", "RUN_WORKERS": "3", "TASK_SLICE": "0.5"}
"""With these settings, a run of the files takes seconds and several slices."""

DRAIN_SECONDS = 0.5

any_index = st.integers(0, 99)
"""Choose a process or run, modulo their number. The drawn values must not depend on the processes."""

fault_points: st.SearchStrategy[Point] = st.sampled_from(get_args(Point))
signals = st.sampled_from(["SIGKILL", "SIGSTOP"])
source_lists = st.lists(st.sampled_from(KNOWN), min_size=1, unique=True)


Step = Callable[..., None]


def step(act: Step) -> Step:
    """Record the exception of a step. If Hypothesis saw the exception, it would run the round again."""

    @wraps(act)
    def record_errors(self: Interleaving, *arguments: Any, **drawn: Any) -> None:
        try:
            act(self, *arguments, **drawn)
        except Exception as error:  # noqa: BLE001 — the round is checked whatever was raised
            self.failures.append(f"{act.__name__}: {type(error).__name__}: {error}")

    return record_errors


class Interleaving(RuleBasedStateMachine):
    """One round. Its steps inject faults. teardown() repairs everything and adds failures to the stage's outcome."""

    def __init__(self, stage: Stage, counts: Counter[str]):
        super().__init__()
        self._stage, self._counts = stage, counts
        self._steps: list[str] = []
        self.failures: list[str] = []
        self._random = random.Random(f"{stage.servers.seed} {counts['rounds']}")
        self._paused: set[str] = set()

    def _finish_step(self, kind: str, detail: str = "") -> None:
        """Count a step under `kind`, and pause before the next step."""
        self._steps.append(f"{kind} {detail}".strip())
        self._counts[kind] += 1
        self._stage.mark_fault()
        time.sleep(self._random.choice(STEP_PAUSES))

    @initialize(sources=source_lists, point=fault_points, name=signals)
    @step
    def begin(self, sources: list[str], point: Point, name: str) -> None:
        """Start some runs and arm a fault point."""
        revive(self._stage)
        self._stage.until_ready(*staying(self._stage, "worker"), *staying(self._stage, "control"))
        self.arm(point, name)
        self.request(sources)

    @rule(sources=source_lists)
    @step
    def request(self, sources: list[str]) -> None:
        self._stage.request(*sources)
        self._finish_step("requests", f"of {' and '.join(sources)}")

    @rule(point=fault_points, name=signals)
    @step
    def arm(self, point: Point, name: str) -> None:
        self._stage.arm(point, name)
        self._finish_step("fault points", f"{point} {name}")

    @rule(index=any_index, name=st.sampled_from(["SIGKILL", "SIGSTOP", "SIGCONT"]))
    @step
    def signal_a_child(self, index: int, name: str) -> None:
        """Signal a single child process of a worker."""
        children = [child for worker in staying(self._stage, "worker") for child in self._stage.children(worker)]
        if child := pick(children, index):
            with suppress(psutil.NoSuchProcess):
                child.send_signal(signal.Signals[name])
            self._finish_step(name, "to a child")

    @rule(index=any_index, name=st.sampled_from(["SIGKILL", "SIGSTOP", "SIGCONT"]))
    @step
    def signal_a_worker(self, index: int, name: str) -> None:
        """Signal all processes of a worker simultaneously."""
        if worker := pick(staying(self._stage, "worker"), index):
            with suppress(ProcessLookupError):
                worker.signal(signal.Signals[name])
            self._finish_step(name, "to a worker")

    @rule(index=any_index)
    @step
    def restart_a_worker(self, index: int) -> None:
        """Replace a worker as a deployment does: send SIGTERM to the old one, and start a new one immediately."""
        if worker := pick(staying(self._stage, "worker"), index):
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGTERM)
            self._stage.stopping.add(worker)
            self._stage.start("worker")
            self._finish_step("SIGTERM", "to a worker, and a new one")

    @rule()
    @step
    def kill_the_reconciler(self) -> None:
        for process in staying(self._stage, "control"):
            process.kill()
        self._stage.start("control")
        self._finish_step("SIGKILL", "to control, and a new one")

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

    @rule(index=any_index)
    @step
    def cancel(self, index: int) -> None:
        if run := pick(self._stage.unfinished(), index):
            status = run.status
            try:
                self._stage.cancel(run.id)
            except AssertionError:
                if self._stage.run(run.id).status in UNFINISHED:
                    raise
                status = "already finished"
            self._finish_step("cancels", f"of a run of {run.source} that was {status}")

    @rule(source=st.sampled_from(KNOWN))
    @step
    def pause_or_resume(self, source: str) -> None:
        if source in self._paused:
            self._stage.api("POST", f"/sources/{source}/resume")
        else:
            self._stage.api("POST", f"/sources/{source}/pause", reason="fault suite")
        self._paused ^= {source}
        self._finish_step("pauses", f"of {source}" if source in self._paused else f"of {source} ended")

    def _recover(self) -> None:
        """Repair everything. Continue frozen processes immediately, or only after others have done their work."""
        if self._random.random() < 0.5:
            resume_processes(self._stage.frozen_processes())
        frozen = frozen_workers(self._stage)
        self._stage.stopping |= set(frozen)
        heal(self._stage, self._paused)
        request_until_complete(self._stage)
        resume_processes(self._stage.frozen_processes())
        for process in frozen:
            time.sleep(DRAIN_SECONDS)  # Time for a resumed process to write stale data.
            process.kill()

    def teardown(self) -> None:
        """Repair everything, request cancelled runs again so that the data can be complete, and check it."""
        if not self._steps or isinstance(sys.exception(), KeyboardInterrupt):
            return  # The round did not begin, or the suite was interrupted.
        known_failures = len(self._stage.outcome.failures)
        try:
            self._recover()
            await_stopping(self._stage)
            check(self._stage)
        except Exception as error:  # noqa: BLE001 — the next round runs whatever was raised
            self.failures.append(f"{type(error).__name__}: {error}")
        self._stage.outcome.failures += self.failures
        self._stage.outcome.fault_count += 1
        self._counts["rounds"] += 1
        story = f"round {self._counts['rounds']}: {', '.join(self._steps)}"
        if failures := self._stage.outcome.failures[known_failures:]:
            self._stage.outcome.failures[known_failures:] = [f"{story}: {failure}" for failure in failures]
        sys.stderr.write(f"    {story}; longest time that a run was stuck: {self._stage.watch.max_stuck:.1f} s\n")
        reset_stage(self._stage, restart=bool(failures))


def pick(items: Sequence[T], index: int) -> T | None:
    return items[index % len(items)] if items else None


@fault("random interleavings of these faults")
def random_interleavings(stage: Stage) -> str:
    counts: Counter[str] = Counter()
    stage.outcome.fault_count = 0
    stage.environ |= LONG_RUNS

    def start_round() -> Interleaving:
        return Interleaving(stage, counts)

    run_state_machine_as_test(
        cast(type[Interleaving], seed(stage.servers.seed)(start_round)),
        settings=settings(
            max_examples=stage.servers.rounds,
            stateful_step_count=MAX_STEPS,
            phases=(Phase.generate,),
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
            print_blob=False,
        ),
    )
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
