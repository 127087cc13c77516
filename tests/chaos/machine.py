"""Faults interleaved at random: rounds of steps that Hypothesis draws from a seed, each round judged at its end."""

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
from tests.chaos.healing import ask_until_whole, begin_anew, heal, leave, revive, staying, with_frozen_parts
from tests.chaos.perform import KNOWN, judge
from tests.chaos.service import go_on
from tests.chaos.stage import Stage, fault

T = TypeVar("T")

STEPS = 10
MOMENTS = (0, 0.05, 0.2, 0.6)
"""Seconds between two steps, one of these by chance."""

LONG_RUNS = {"CSV_BLOCK_BYTES": "4096", "CSV_RANGE_BYTES": "12288", "RUN_WORKERS": "3", "TASK_SLICE": "0.5"}
"""A run of the files takes seconds, in several slices."""

A_MOMENT = 0.5

anyone = st.integers(0, 99)
"""Who is meant, of however many there are then: what is drawn may not depend on what the processes did."""

some_point: st.SearchStrategy[Point] = st.sampled_from(get_args(Point))
striking = st.sampled_from(["SIGKILL", "SIGSTOP"])
some_sources = st.lists(st.sampled_from(KNOWN), min_size=1, unique=True)


Step = Callable[..., None]


def step(act: Step) -> Step:
    """Notes what a step raises, instead of handing it to Hypothesis, which would run the round again to be sure."""

    @wraps(act)
    def noting(self: Interleaving, *given: Any, **drawn: Any) -> None:
        try:
            act(self, *given, **drawn)
        except Exception as error:  # noqa: BLE001 — whatever it is, the round is to be judged
            self.failed.append(f"{act.__name__}: {type(error).__name__}: {error}")

    return noting


class Interleaving(RuleBasedStateMachine):
    """One round. Its steps hurt, its end heals: what is broken then is added to the stage's outcome."""

    def __init__(self, stage: Stage, done: Counter[str]):
        super().__init__()
        self._stage, self._done = stage, done
        self._steps: list[str] = []
        self.failed: list[str] = []
        self._chance = random.Random(f"{stage.servers.seed} {done['rounds']}")
        self._paused: set[str] = set()

    def _note(self, kind: str, what: str = "") -> None:
        """kind: under which the step is counted. Then time passes, so that the next one meets another moment."""
        self._steps.append(f"{kind} {what}".strip())
        self._done[kind] += 1
        self._stage.hurt()
        time.sleep(self._chance.choice(MOMENTS))

    @initialize(sources=some_sources, point=some_point, name=striking)
    @step
    def begin(self, sources: list[str], point: Point, name: str) -> None:
        """Some runs are under way before anything else is hurt."""
        revive(self._stage)
        self._stage.until_ready(*staying(self._stage, "worker"), *staying(self._stage, "control"))
        self.arm(point, name)
        self.request(sources)

    @rule(sources=some_sources)
    @step
    def request(self, sources: list[str]) -> None:
        self._stage.request(*sources)
        self._note("requests", f"of {' and '.join(sources)}")

    @rule(point=some_point, name=striking)
    @step
    def arm(self, point: Point, name: str) -> None:
        self._stage.arm(point, name)
        self._note("kill points", f"{point} {name}")

    @rule(who=anyone, name=st.sampled_from(["SIGKILL", "SIGSTOP", "SIGCONT"]))
    @step
    def signal_a_child(self, who: int, name: str) -> None:
        """One of the processes that work, alone."""
        children = [child for worker in staying(self._stage, "worker") for child in self._stage.children(worker)]
        if child := one_of(children, who):
            with suppress(psutil.NoSuchProcess):
                child.send_signal(signal.Signals[name])
            self._note(name, "to a child")

    @rule(who=anyone, name=st.sampled_from(["SIGKILL", "SIGSTOP", "SIGCONT"]))
    @step
    def signal_a_worker(self, who: int, name: str) -> None:
        """All of its processes at once."""
        if worker := one_of(staying(self._stage, "worker"), who):
            with suppress(ProcessLookupError):
                worker.signal(signal.Signals[name])
            self._note(name, "to a worker")

    @rule(who=anyone)
    @step
    def restart_a_worker(self, who: int) -> None:
        """As a deployment does: SIGTERM to the old one, and a new one at once."""
        if worker := one_of(staying(self._stage, "worker"), who):
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGTERM)
            self._stage.leaving.add(worker)
            self._stage.start("worker")
            self._note("SIGTERM", "to a worker, and a new one")

    @rule()
    @step
    def kill_the_reconciler(self) -> None:
        for process in staying(self._stage, "control"):
            process.kill()
        self._stage.start("control")
        self._note("SIGKILL", "to control, and a new one")

    @rule()
    @step
    def empty_redis(self) -> None:
        with self._stage.outage():
            self._stage.broker.flushall()
        self._note("FLUSHALL")

    @rule(kill=st.booleans())
    @step
    def restart_redis(self, kill: bool) -> None:
        with self._stage.outage():
            self._stage.valkey.kill() if kill else self._stage.valkey.stop()
            self._stage.valkey.start()
        self._note("Redis restarts", "after a kill" if kill else "")

    @rule()
    @step
    def cut_connections_to_postgres(self) -> None:
        self._stage.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        self._note("cut connections")

    @rule()
    @step
    def restart_postgres(self) -> None:
        with self._stage.outage():
            self._stage.postgres.kill()
            self._stage.postgres.start()
        self._note("Postgres restarts", "after a kill")

    @rule(who=anyone)
    @step
    def cancel(self, who: int) -> None:
        if run := one_of(self._stage.unfinished(), who):
            found = run.status
            try:
                self._stage.cancel(run.id)
            except AssertionError:
                if self._stage.run(run.id).status in UNFINISHED:
                    raise
                found = "over by then"
            self._note("cancels", f"of a run of {run.source} that was {found}")

    @rule(source=st.sampled_from(KNOWN))
    @step
    def pause_or_resume(self, source: str) -> None:
        if source in self._paused:
            self._stage.api("POST", f"/sources/{source}/resume")
        else:
            self._stage.api("POST", f"/sources/{source}/pause", reason="a fault")
        self._paused ^= {source}
        self._note("pauses", f"of {source}" if source in self._paused else f"of {source} ended")

    def _recover(self) -> None:
        """What is frozen goes on at once; or only when others have done all its work, and then finds it done."""
        if self._chance.random() < 0.5:
            go_on(self._stage.stopped())
        replaced = with_frozen_parts(self._stage)
        self._stage.leaving |= set(replaced)
        heal(self._stage, self._paused)
        ask_until_whole(self._stage)
        go_on(self._stage.stopped())
        for process in replaced:
            time.sleep(A_MOMENT)  # in which it would do harm
            process.kill()

    def teardown(self) -> None:
        """Heal everything; what was cancelled is asked for again, so that the data can be whole."""
        if not self._steps or isinstance(sys.exception(), KeyboardInterrupt):
            return  # Hypothesis gave the round up before it began, or somebody gave all of it up
        before = len(self._stage.outcome.broken)
        try:
            self._recover()
            leave(self._stage)
            judge(self._stage)
        except Exception as error:  # noqa: BLE001 — whatever it is, the next round is to be run
            self.failed.append(f"{type(error).__name__}: {error}")
        self._stage.outcome.broken += self.failed
        self._stage.outcome.counts += 1
        self._done["rounds"] += 1
        story = f"round {self._done['rounds']}: {', '.join(self._steps)}"
        if broken := self._stage.outcome.broken[before:]:
            self._stage.outcome.broken[before:] = [f"{story}: {what}" for what in broken]
        sys.stderr.write(f"    {story}; the longest a run did not move: {self._stage.watch.longest:.1f} s\n")
        begin_anew(self._stage, afresh=bool(broken))


def one_of(those: Sequence[T], who: int) -> T | None:
    return those[who % len(those)] if those else None


@fault("random interleavings of all of these")
def random_interleavings(stage: Stage) -> str:
    done: Counter[str] = Counter()
    stage.outcome.counts = 0
    stage.environ |= LONG_RUNS

    def round_() -> Interleaving:
        return Interleaving(stage, done)

    run_state_machine_as_test(
        cast(type[Interleaving], seed(stage.servers.seed)(round_)),
        settings=settings(
            max_examples=stage.servers.rounds,
            stateful_step_count=STEPS,
            phases=(Phase.generate,),
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
            print_blob=False,
        ),
    )
    return ", ".join(f"{count} {what}" for what, count in sorted(done.items()))
