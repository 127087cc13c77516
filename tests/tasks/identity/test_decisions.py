"""What people decide of listings: merged, split, pinned and undone, and what rules may still do after that."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from settings import SettingsError
from tasks.identity.decisions import DecisionRefused, Override, Verdict
from tasks.identity.overrides_file import read_overrides
from tasks.identity.rematch import rematch_assets
from tests.processes import Process, until
from tests.tasks.assets import (
    UNISWAP,
    UNIVERSE,
    ask,
    assets,
    merge,
    pin,
    quote,
    resolve,
    split,
    state,
    two_of_a_symbol,
    undo,
)


@pytest.fixture(autouse=True)
def two(engine: Engine) -> None:
    two_of_a_symbol(engine)


def because(method: str) -> Verdict:
    return Verdict(method, "test", reason="it is so")


def test_merged_assets_are_one_and_both_slugs_stand_for_it(engine: Engine) -> None:
    merge(engine, "universe", "uniswap", because("merged"))
    assert assets(engine) == {"uniswap": ["uni-uniswap", "uni-uniswap", "uniswap", "universe"], "universe": []}
    pin(engine, "universe", [UNIVERSE], because("pinned"))
    assert assets(engine)["uniswap"][-1] == "universe"
    resolve(engine, "csv_history", quote("UNI", "UNI", "Universe"))
    assert assets(engine)["uniswap"][-1] == "UNI"


def test_what_is_split_off_stays_apart_whatever_rules_say(engine: Engine) -> None:
    split(engine, "uniswap", [UNISWAP], because("split"))
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


def test_each_change_can_be_undone_and_its_undoing_too(engine: Engine) -> None:
    states = [state(engine)]
    changes = []
    for change in (
        lambda: merge(engine, "universe", "uniswap", because("merged")),
        lambda: split(engine, "uniswap", [UNISWAP, UNIVERSE], because("split")),
        lambda: pin(engine, "uniswap", [UNIVERSE], because("pinned")),
    ):
        changes.append(change())
        states.append(state(engine))
    for change, before, after in zip(reversed(changes), states[-2::-1], states[:0:-1], strict=True):
        undoing = undo(engine, change)
        assert state(engine)[: len(before)] == before
        redoing = undo(engine, undoing)
        assert state(engine)[: len(after)] == after
        undo(engine, redoing)
    rows = ask(engine, "SELECT method, decided_by, reason FROM decisions WHERE change IS NOT NULL ORDER BY id LIMIT 1")
    assert [tuple(row) for row in rows] == [("merged", "test", "it is so")]


def test_a_change_that_others_built_on_is_not_undone_beneath_them(engine: Engine) -> None:
    change = merge(engine, "universe", "uniswap", because("merged"))
    pin(engine, "uniswap", [UNIVERSE], because("pinned"))
    before = state(engine)
    with pytest.raises(DecisionRefused, match="Since then 'universe' of coingecko was decided anew; undo that first"):
        undo(engine, change)
    assert state(engine) == before


def test_an_undoing_is_undone_after_what_was_built_on_it_was(engine: Engine) -> None:
    merging = merge(engine, "universe", "uniswap", because("merged"))
    merged = state(engine)
    undoing = undo(engine, merging)
    undone = state(engine)
    pinning = pin(engine, "uniswap", [UNIVERSE], because("pinned"))
    undo(engine, undo(engine, undo(engine, pinning)))
    assert state(engine) == undone
    undo(engine, undoing)
    assert state(engine) == merged
    undo(engine, merging)
    assert state(engine) == undone
    with pytest.raises(DecisionRefused, match="was decided anew"):
        undo(engine, merging)


def test_a_listing_that_is_named_twice_is_decided_of_once(engine: Engine) -> None:
    before = state(engine)
    undo(engine, split(engine, "uniswap", [UNISWAP, UNISWAP], because("split")))
    assert state(engine)[: len(before)] == before


def test_an_asset_that_was_merged_meanwhile_is_not_revived_unasked(engine: Engine) -> None:
    splitting = split(engine, "uniswap", [UNISWAP], because("split"))
    merging = merge(engine, "uniswap", "universe", because("merged"))
    before = state(engine)
    with pytest.raises(
        DecisionRefused, match=f"Since then uniswap was merged into universe, by change {merging}; undo that"
    ):
        undo(engine, splitting)
    assert state(engine) == before
    undo(engine, merging)
    undo(engine, splitting)
    assert assets(engine)["uniswap"] == ["uni-uniswap", "uni-uniswap", "uniswap"]


def test_a_currency_that_was_met_since_goes_with_its_listing(engine: Engine) -> None:
    change = merge(engine, "universe", "uniswap", because("merged"))
    resolve(engine, "coingecko", quote(UNIVERSE[1], "uni", "Universe", "EUR"))
    merged = state(engine)
    undoing = undo(engine, change)
    assert assets(engine)["universe"] == ["universe", "universe"]
    undone = state(engine)
    redoing = undo(engine, undoing)
    assert state(engine) == merged
    undo(engine, redoing)
    assert state(engine) == undone
    undo(engine, undoing)
    undo(engine, change)
    assert state(engine) == undone


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        (
            lambda it: merge(it, "nothing", "uniswap", because("merged")),
            "unknown_asset",
            "There is no asset 'nothing'.",
        ),
        (
            lambda it: merge(it, "uniswap", "uniswap", because("merged")),
            "conflict",
            "are one asset already: uniswap, uniswap.",
        ),
        (
            lambda it: split(it, "universe", [UNISWAP], because("split")),
            "conflict",
            "Among the listings of universe there is no 'uni-uniswap' of coinpaprika.",
        ),
        (lambda it: split(it, "universe", [UNIVERSE], because("split")), "conflict", "one must stay"),
        (
            lambda it: split(it, "uniswap", [UNISWAP, UNISWAP, ("coingecko", "uniswap")], because("split")),
            "conflict",
            "one must stay",
        ),
        (
            lambda it: pin(it, "uniswap", [("csv", "x")], because("pinned")),
            "unknown_listing",
            "There is no 'x' of csv.",
        ),
        (lambda it: undo(it, uuid.UUID(int=0)), "unknown_change", "There is no change"),
    ],
)
def test_what_cannot_be_decided_is_refused_and_changes_nothing(
    engine: Engine, change: object, code: str, detail: str
) -> None:
    before = state(engine)
    with pytest.raises(DecisionRefused, match=detail) as refused:
        change(engine)  # type: ignore[operator]  # the lambdas above
    assert refused.value.code == code
    assert state(engine) == before


# The file of overrides


def test_the_file_says_which_listing_is_of_which_asset(tmp_path: Path) -> None:
    file = tmp_path / "overrides.csv"
    file.write_text('\ufeffsource,source_asset_id,asset,reason\r\ncoinpaprika,uni-uniswap,uniswap,"so, I say"\r\n')
    assert read_overrides(file) == {UNISWAP: Override("uniswap", "so, I say")}


def test_mistakes_in_the_file_are_all_named(tmp_path: Path) -> None:
    file = tmp_path / "overrides.csv"
    lines = ["coinpaprka,a,b,c", "coinpaprika,,UPPER,c", "coinpaprika,a,b,c", "coinpaprika,a,b,c", "coinpaprika,a"]
    file.write_text("\n".join(["source,source_asset_id,asset,reason", *lines]))
    with pytest.raises(SettingsError) as error:
        read_overrides(file)
    assert [line.removeprefix(str(file)) for line in str(error.value).splitlines()] == [
        "OVERRIDES:",
        ", line 2: there is no source 'coinpaprka'; did you mean 'coinpaprika'?",
        ", line 3: source_asset_id: expected the id that the source has for it, got none",
        ", line 3: asset: expected a slug, such as bitcoin, got 'UPPER'",
        ", line 5: 'a' of coinpaprika is named twice",
        ", line 6: expected 4 cells",
    ]


@pytest.mark.parametrize("role", ["worker", "control"])
def test_a_mistake_in_the_file_is_said_by_whoever_reads_it_as_it_starts(
    start: Callable[..., Process], tmp_path: Path, role: str
) -> None:
    file = tmp_path / "overrides.csv"
    file.write_text("source,source_asset_id,asset,reason\ncoinpaprika,a\n")
    process = start(role, OVERRIDES=str(file))
    process.wait(20)
    assert process.log.read_text() == f"OVERRIDES:\n{file}, line 2: expected 4 cells\n"


def test_beat_does_without_the_file(start: Callable[..., Process], tmp_path: Path) -> None:
    process = start("beat", OVERRIDES=str(tmp_path / "nothing"))
    until(lambda: "slot_requested" in process.log.read_text())
