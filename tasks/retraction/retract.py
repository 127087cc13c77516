"""Retract missing quotes at the end of a full refresh: verify, compare, and delete, in batches of one transaction each.

No quote is deleted before all are compared. The run stores its progress with each batch, so a slice continues where the
last one stopped. Each batch proves that the slice still holds its run, and that nobody else loads pages of the source.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import structlog
from sqlalchemy import Connection, Engine, text

from settings import Settings
from sources.contract import Source, TerminalError
from tasks.pipeline.slice import SliceEnded
from tasks.retraction.batches import process_batch
from tasks.retraction.conditions import check_files, check_pages
from tasks.retraction.samples import describe_samples
from tasks.retraction.state import Retraction, hold_run, read_retraction, require_no_lease, save_retraction
from tasks.runs.claims import Claim, ClaimLost
from tasks.runs.partitions import forget_missing
from tasks.runtime.fault_points import reach
from tasks.runtime.retry import retry_transaction

log = structlog.get_logger()

MAX_SHARE = 0.5
"""Maximum share of the quotes stored before the run that it may delete without `max_retracted`."""


def retract_missing(
    engine: Engine, settings: Settings, source: Source, claim: Claim, check_time: Callable[[], None]
) -> None:
    """Delete the source's quotes that the run did not see. In a dry run, only count them.

    check_time: raises SliceEnded if the slice's time is up. Call this after all partitions are loaded.

    Raise TerminalError if a record is unknown or too many quotes are missing, and the errors of claims and leases.
    """
    work = _Work(engine, settings, source, claim)
    retraction = work.start()
    while retraction.phase != "done":
        retraction = work.decide(retraction) if retraction.phase == "compared" else work.next_batch(retraction)
        if retraction.phase != "done":
            check_time()
    if not claim.parameters.get("dry_run", False):
        # The quotes of removed files are gone, too, so these files are no longer missing.
        with engine.begin() as connection:
            forget_missing(connection, source.name)
    log.info(
        "retraction_completed", compared=retraction.compared, missing=retraction.missing, deleted=retraction.deleted
    )


class _Work:
    """The work of one slice on the retraction of its run."""

    def __init__(self, engine: Engine, settings: Settings, source: Source, claim: Claim):
        self._engine, self._settings, self._source, self._claim = engine, settings, source, claim

    def start(self) -> Retraction:
        """Return the progress of an earlier slice, or verify the files and begin. Raise SliceEnded for a new file."""
        with self._engine.connect() as connection:
            retraction = read_retraction(connection, self._claim)
        if retraction:
            return retraction
        if not check_files(self._engine, self._settings, self._source, self._claim, self._hold):
            raise SliceEnded
        begun = Retraction.begin()

        def begin(connection: Connection) -> Retraction:
            check_pages(connection, self._source, self._claim)
            save_retraction(connection, self._claim, begun, begins=True)
            return begun

        return self._transact(begin)

    def next_batch(self, retraction: Retraction) -> Retraction:
        """Compare the next batch, or delete its missing quotes. Return the progress."""

        def process(connection: Connection) -> Retraction:
            # After a lost response to COMMIT, the stored progress is ahead.
            stored = read_retraction(connection, self._claim)
            if stored is None or stored.token != retraction.token:
                raise ClaimLost(f"{self._claim.run}: the database lost the start of the retraction")
            if stored != retraction:
                return stored
            advanced = process_batch(connection, self._claim, retraction)
            save_retraction(connection, self._claim, advanced)
            reach("before_comparison_commit" if retraction.phase == "compare" else "before_deletion_commit")
            return advanced

        advanced = self._transact(process)
        reach("after_comparison_commit" if retraction.phase == "compare" else "after_deletion_commit")
        return advanced

    def decide(self, retraction: Retraction) -> Retraction:
        """Describe the first missing quotes. Return the progress, ready to delete, or done in a dry run.

        Raise TerminalError if too many quotes are missing.
        """
        is_dry_run = self._claim.parameters.get("dry_run", False)
        samples = describe_samples(self._engine, self._settings, self._source, retraction)
        decided = replace(
            retraction, samples=tuple(samples), phase="done" if is_dry_run or not retraction.missing else "delete"
        )
        error = None if decided.phase == "done" else self._excess(retraction)

        def save(connection: Connection) -> Retraction:
            # A refused retraction stays in its phase, so that no other slice goes on to delete.
            save_retraction(connection, self._claim, replace(decided, phase="compared") if error else decided)
            return decided

        decided = self._transact(save)
        if error:
            raise error
        return decided

    def _excess(self, retraction: Retraction) -> TerminalError | None:
        """Return the error if more quotes are missing than the run may delete."""
        limit = self._claim.parameters.get("max_retracted")
        with self._engine.connect() as connection:
            inserted = connection.scalar(
                text("SELECT coalesce(sum(inserted), 0) FROM pages WHERE run = :run"), {"run": self._claim.run}
            )
        stored = max(retraction.compared - int(inserted or 0), 0)
        if retraction.missing <= (stored * MAX_SHARE if limit is None else limit):
            return None
        return TerminalError(
            f"{self._source.name}: {retraction.missing} of the {stored} quotes stored before the run are in none of "
            f"its files, and no quote was retracted. If the files are right, request the full refresh again with "
            f'"max_retracted": {retraction.missing}; `retraction` of this run names the first of these quotes.',
            code="too_many_missing",
        )

    def _transact(self, step: Callable[[Connection], Retraction]) -> Retraction:
        """Execute a step in a transaction that holds the run and excludes pages of its source."""

        def transaction() -> Retraction:
            with self._engine.begin() as connection:
                hold_run(connection, self._claim)
                require_no_lease(connection, self._claim)
                return step(connection)

        return retry_transaction(transaction, time.monotonic() + self._settings.transaction_timeout / 2)

    def _hold(self) -> None:
        with self._engine.begin() as connection:
            hold_run(connection, self._claim)
