"""Interleave faults at random, in rounds of steps that Hypothesis draws from a seed. Check each round at its end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar, cast, get_args

import psutil
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

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
from tests.chaos.server_steps import Props, ServerSteps, step
from tests.chaos.service import resume_processes
from tests.chaos.stage import Stage

T = TypeVar("T")

MAX_STEPS = 10
LONG_RUNS = {"CSV_BLOCK_BYTES": "4096", "CSV_RANGE_BYTES": "12288", "RUN_WORKERS": "3", "TASK_SLICE": "0.5"}
"""With these settings, a run of the files takes seconds and several slices."""

DRAIN_SECONDS = 0.5

any_index = st.integers(0, 99)
"""Choose a process or run, modulo their number. The drawn values must not depend on the processes."""

fault_points: st.SearchStrategy[Point] = st.sampled_from(get_args(Point))
signals = st.sampled_from(["SIGKILL", "SIGSTOP"])
source_lists = st.lists(st.sampled_from(KNOWN), min_size=1, unique=True)


class Interleaving(ServerSteps):
    """One round. Its steps inject faults. teardown() repairs everything and adds failures to the stage's outcome."""

    @initialize(sources=source_lists, point=fault_points, name=signals)
    def begin(self, sources: list[str], point: Point, name: str) -> None:
        """Start some runs and arm a fault point."""
        try:
            revive(self._stage)
            self._stage.until_ready(*staying(self._stage, "worker"), *staying(self._stage, "control"))
            self._props.copy.take()
        except Exception as error:  # noqa: BLE001 — as in a step
            self.failures.append(f"begin: {type(error).__name__}: {error}")
        self.arm(point, name)
        self.request(sources)

    @rule(sources=source_lists)
    @step
    def request(self, sources: list[str]) -> None:
        self._props.migrations.finish()  # The API refuses to work on an old schema.
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

    @rule(index=any_index)
    @step
    def cancel(self, index: int) -> None:
        self._props.migrations.finish()
        if run := pick(self._stage.unfinished(), index):
            status = run.status
            try:
                self._stage.cancel(run.id)
            except AssertionError:
                if self._stage.run(run.id).status in UNFINISHED:
                    raise
                status = "already finished"
            self._finish_step("cancels", f"of a run of {run.source} that was {status}")

    @rule(source=st.sampled_from(KNOWN), action=st.sampled_from(["pause", "resume"]))
    @step
    def pause_or_resume(self, source: str, action: str) -> None:
        self._props.migrations.finish()
        body = {"reason": "fault suite"} if action == "pause" else {}
        self._stage.api("POST", f"/sources/{source}/{action}", **body)
        self._finish_step(f"{action}s", f"of {source}")

    def _recover(self) -> None:
        """Repair everything. Continue frozen processes immediately, or only after others have done their work."""
        if self._random.random() < 0.5:
            resume_processes(self._stage.frozen_processes())
        frozen = frozen_workers(self._stage)
        self._stage.stopping |= set(frozen)
        self._props.migrations.finish()
        heal(self._stage)
        request_until_complete(self._stage)
        if self._has_changed_file:
            self._props.file.restore()
            self._stage.request("csv_history")
            self._stage.settle()
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
        self._props.file.restore()
        reset_stage(self._stage, restart=bool(failures))


def pick(items: Sequence[T], index: int) -> T | None:
    return items[index % len(items)] if items else None


@fault("random interleavings of these faults")
def random_interleavings(stage: Stage) -> str:
    counts: Counter[str] = Counter()
    stage.outcome.fault_count = 0
    stage.environ |= LONG_RUNS
    props = Props.of(stage)

    def start_round() -> Interleaving:
        return Interleaving(stage, props, counts)

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
