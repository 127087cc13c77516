"""Test that the progress of a retraction survives in the row of its run, and is fenced."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.retraction.state import (
    MAX_SAMPLES,
    Retraction,
    hold_run,
    read_retraction,
    require_no_lease,
    save_retraction,
)
from tasks.runs.claims import Claim, ClaimLost
from tasks.runs.leases import Cancelled, LeaseHeld, take_lease
from tasks.runs.requests import request_cancel
from tests.tasks.conftest import Bench

Claims = tuple[Claim, Claim]


def test_progress_is_read_as_it_was_stored(bench: Bench, claims: Claims) -> None:
    claim, _ = claims
    begun = Retraction.begin()
    missing = [(listing, "2026-01-31T10:00:00.000001+00:00") for listing in range(MAX_SAMPLES + 1)]
    advanced = replace(begun.advanced((7, missing[0][1]), compared=9, missing=missing), samples=({"price": "1"},))
    with bench.engine.begin() as connection:
        assert read_retraction(connection, claim) is None
        save_retraction(connection, claim, begun, begins=True)
        save_retraction(connection, claim, advanced)
        assert read_retraction(connection, claim) == advanced
    assert (advanced.compared, advanced.missing, len(advanced.first)) == (9, MAX_SAMPLES + 1, MAX_SAMPLES)


def test_a_database_that_lost_the_start_of_the_retraction_is_noticed(bench: Bench, claims: Claims) -> None:
    claim, _ = claims
    begun = Retraction.begin()
    with bench.engine.begin() as connection:
        with pytest.raises(ClaimLost, match="lost the start"):
            save_retraction(connection, claim, begun.advanced(None))
        save_retraction(connection, claim, Retraction.begin(), begins=True)
        with pytest.raises(ClaimLost, match="lost the start"):
            save_retraction(connection, claim, begun.advanced(None))


def test_the_phases_follow_each_other() -> None:
    compared = Retraction.begin().advanced((1, "infinity")).advanced(None)
    assert (compared.phase, compared.position) == ("compared", Retraction.begin().position)
    assert replace(compared, phase="delete").advanced(None, deleted=3).phase == "done"


def test_a_cancelled_or_lost_run_is_not_held(bench: Bench, claims: Claims) -> None:
    claim, _ = claims
    with bench.engine.begin() as connection:
        hold_run(connection, claim)
    with pytest.raises(ClaimLost), bench.engine.begin() as connection:
        hold_run(connection, replace(claim, number=claim.number + 1))
    request_cancel(bench.engine, claim.run)
    with pytest.raises(Cancelled), bench.engine.begin() as connection:
        hold_run(connection, claim)


def test_an_assistant_that_holds_a_lease_is_waited_for(bench: Bench, claims: Claims) -> None:
    claim, assistant = claims
    with bench.engine.begin() as connection:
        require_no_lease(connection, claim)
    take_lease(bench.engine, assistant, "b", 10)
    with pytest.raises(LeaseHeld) as held, bench.engine.begin() as connection:
        require_no_lease(connection, claim)
    assert (held.value.same_run, 1 <= held.value.seconds <= 10) == (True, True)
