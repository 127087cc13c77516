"""Test that people can merge assets, and split and pin listings, and that rules do not change these decisions."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from tasks.identity.decisions import DecisionRefused
from tasks.identity.rematch import rematch_assets
from tests.tasks.assets import (
    UNISWAP,
    UNIVERSE,
    add_acme_twice,
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


def test_both_slugs_of_merged_assets_identify_the_merged_asset(engine: Engine) -> None:
    merge(engine, "universe", "uniswap")
    assert assets(engine) == {"uniswap": ["uni-uniswap", "uni-uniswap", "uniswap", "universe"], "universe": []}
    pin(engine, "universe", [UNIVERSE])
    assert assets(engine)["uniswap"][-1] == "universe"
    resolve(engine, "csv_history", quote("UNI", "UNI", "Universe"))
    assert assets(engine)["uniswap"][-1] == "UNI"


def test_rules_do_not_merge_a_split_listing_again(engine: Engine) -> None:
    split(engine, "uniswap", [UNISWAP])
    assert assets(engine) == {
        "uniswap": ["uniswap"],
        "universe": ["universe"],
        "uniswap-uni": ["uni-uniswap", "uni-uniswap"],
    }
    before = state(engine)
    rematch_assets(engine, {})
    assert state(engine) == before
    resolve(engine, "coinpaprika", quote(UNISWAP[1], "UNI", "Uniswap", "BTC"))
    assert assets(engine)["uniswap-uni"] == ["uni-uniswap"] * 3


def test_rules_do_not_move_a_pinned_listing(engine: Engine) -> None:
    add_acme_twice(engine)
    pin(engine, "acme", [("coinpaprika", "acm-1")])
    before = state(engine)
    rematch_assets(engine, {})
    assert state(engine) == before


def test_each_decision_is_recorded_with_its_author_and_reason(engine: Engine) -> None:
    change = merge(engine, "universe", "uniswap")
    [row] = query(engine, "SELECT method, decided_by, reason FROM decisions WHERE change = :change", change=change)
    assert tuple(row) == ("merged", "test", "checked")


def test_a_listing_named_twice_in_a_decision_counts_once(engine: Engine) -> None:
    before = state(engine)
    undo(engine, split(engine, "uniswap", [UNISWAP, UNISWAP]))
    assert state(engine)[: len(before)] == before


@pytest.mark.parametrize(
    ("decide", "code", "detail"),
    [
        (lambda engine: merge(engine, "nothing", "uniswap"), "unknown_asset", "There is no asset 'nothing'."),
        (lambda engine: merge(engine, "uniswap", "uniswap"), "conflict", "uniswap and uniswap are already the same"),
        (
            lambda engine: split(engine, "universe", [UNISWAP]),
            "conflict",
            "The listing 'uni-uniswap' of coinpaprika does not belong to universe.",
        ),
        (lambda engine: split(engine, "universe", [UNIVERSE]), "conflict", "one must stay"),
        (
            lambda engine: split(engine, "uniswap", [UNISWAP, UNISWAP, ("coingecko", "uniswap")]),
            "conflict",
            "one must stay",
        ),
        (
            lambda engine: pin(engine, "uniswap", [("csv", "x")]),
            "unknown_listing",
            "There is no listing 'x' of csv.",
        ),
        (lambda engine: undo(engine, uuid.UUID(int=0)), "unknown_change", "There is no change"),
    ],
)
def test_an_impossible_decision_is_refused_and_changes_nothing(
    engine: Engine, decide: Callable[[Engine], object], code: str, detail: str
) -> None:
    before = state(engine)
    with pytest.raises(DecisionRefused, match=detail) as refused:
        decide(engine)
    assert refused.value.code == code
    assert state(engine) == before
