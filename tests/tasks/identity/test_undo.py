"""Test that a change and its undo can be undone, unless a later decision depends on them."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from tasks.identity.decisions import DecisionRefused, Override, decision_lock
from tasks.identity.rematch import rematch_assets
from tasks.identity.undo import current_assets
from tests.tasks.assets import (
    UNISWAP,
    UNIVERSE,
    assets,
    merge,
    pin,
    query,
    quote,
    resolve,
    split,
    state,
    undo,
)

pytestmark = pytest.mark.usefixtures("two_assets")


def test_a_change_and_its_undo_can_both_be_undone(engine: Engine) -> None:
    states = [state(engine)]
    changes = []
    for decide in (
        lambda: merge(engine, "universe", "uniswap"),
        lambda: split(engine, "uniswap", [UNISWAP, UNIVERSE]),
        lambda: pin(engine, "uniswap", [UNIVERSE]),
    ):
        changes.append(decide())
        states.append(state(engine))
    for change, before, after in zip(reversed(changes), states[-2::-1], states[:0:-1], strict=True):
        undone = undo(engine, change)
        assert state(engine)[: len(before)] == before
        redone = undo(engine, undone)
        assert state(engine)[: len(after)] == after
        undo(engine, redone)
    rows = query(
        engine, "SELECT method, decided_by, reason FROM decisions WHERE change IS NOT NULL ORDER BY id LIMIT 1"
    )
    assert [tuple(row) for row in rows] == [("merged", "test", "checked")]


def test_a_change_cannot_be_undone_while_a_later_change_depends_on_it(engine: Engine) -> None:
    change = merge(engine, "universe", "uniswap")
    pin(engine, "uniswap", [UNIVERSE])
    before = state(engine)
    with pytest.raises(
        DecisionRefused, match="The listing 'universe' of coingecko was decided again later; undo that change first"
    ):
        undo(engine, change)
    assert state(engine) == before


def test_an_undo_can_be_undone_after_the_changes_that_depend_on_it_are_undone(engine: Engine) -> None:
    merging = merge(engine, "universe", "uniswap")
    merged = state(engine)
    undo_of_merging = undo(engine, merging)
    unmerged = state(engine)
    pinning = pin(engine, "uniswap", [UNIVERSE])
    undo(engine, undo(engine, undo(engine, pinning)))
    assert state(engine) == unmerged
    undo(engine, undo_of_merging)
    assert state(engine) == merged
    undo(engine, merging)
    assert state(engine) == unmerged
    with pytest.raises(DecisionRefused, match="was decided again later"):
        undo(engine, merging)


def test_an_undo_is_refused_if_it_would_restore_an_asset_that_was_merged_later(engine: Engine) -> None:
    splitting = split(engine, "uniswap", [UNISWAP])
    merging = merge(engine, "uniswap", "universe")
    before = state(engine)
    with pytest.raises(
        DecisionRefused, match=f"uniswap was merged into universe later, by change {merging}; undo that change first"
    ):
        undo(engine, splitting)
    assert state(engine) == before
    undo(engine, merging)
    undo(engine, splitting)
    assert assets(engine)["uniswap"] == ["uni-uniswap", "uni-uniswap", "uniswap"]


def test_a_currency_that_was_added_later_moves_with_its_listing(engine: Engine) -> None:
    change = merge(engine, "universe", "uniswap")
    resolve(engine, "coingecko", quote(UNIVERSE[1], "uni", "Universe", "EUR"))
    merged = state(engine)
    undone = undo(engine, change)
    assert assets(engine)["universe"] == ["universe", "universe"]
    unmerged = state(engine)
    redone = undo(engine, undone)
    assert state(engine) == merged
    undo(engine, redone)
    assert state(engine) == unmerged
    undo(engine, undone)
    undo(engine, change)
    assert state(engine) == unmerged


def test_the_current_asset_follows_merges_but_not_overrides(engine: Engine) -> None:
    ids = {row.slug: row.id for row in query(engine, "SELECT slug, id FROM assets")}
    rematch_assets(engine, {UNIVERSE: Override("elsewhere", "")})
    with decision_lock(engine) as connection:
        assert current_assets(connection, [ids["universe"]])[ids["universe"]] == ids["universe"]
    rematch_assets(engine, {})
    merge(engine, "universe", "uniswap")
    with decision_lock(engine) as connection:
        assert current_assets(connection, [ids["universe"]])[ids["universe"]] == ids["uniswap"]
