"""Test that `make score` counts correct, wrong and missing matches, and ignores undecided ones."""

from __future__ import annotations

import pytest

from tasks.identity.similarity import Spelling, compare
from tests.data.identity import NO_NAME_IN_COMMON, NO_SYMBOL_IN_COMMON
from tests.score import FOLDER, Score, match_folder, mismatches, rate

PAIRS = [
    dict(zip(("coinpaprika_id", "coingecko_id", "label", "kind"), row.split(","), strict=True))
    for row in (
        "a,A,same,easy",
        "b,B,same,renamed",
        "b,X,different,homonym",
        "c,C,different,bridged",
        "d,,different,none",
    )
]


def test_correct_matches_score_one() -> None:
    assert rate(PAIRS, {"a": "A", "b": "B"}) == Score(1, 1, 1, 0)
    assert list(mismatches(PAIRS, {"a": "A", "b": "B"})) == []


def test_a_wrong_match_lowers_precision_and_a_missing_match_lowers_recall() -> None:
    matches = {"a": "A", "b": "X", "d": "D"}
    assert rate(PAIRS, matches) == Score(1 / 3, 1 / 2, 0, 1 / 2)
    assert len(list(mismatches(PAIRS, matches))) == 3


def test_a_match_that_no_pair_confirms_or_refutes_is_ignored() -> None:
    assert rate(PAIRS, {"a": "A", "c": "other", "e": "E"}) == Score(1, 1 / 2, 0, 0)


def test_the_invented_pairs_have_no_wrong_match_and_miss_only_unrelated_names() -> None:
    pairs, matches = match_folder(FOLDER)
    score = rate(pairs, matches)
    assert [line for line in mismatches(pairs, matches) if line.startswith("accepted")] == []
    assert (score.precision, score.traps_accepted_share) == (1, 0)
    missing = [pair for pair in pairs if pair["label"] == "same" and pair["coinpaprika_id"] not in matches]
    assert {pair["evidence"] for pair in missing} == {NO_NAME_IN_COMMON, NO_SYMBOL_IN_COMMON}


@pytest.mark.xfail(reason="symbol_and_core_of_name compares the cores of ids, regardless of the removed words")
def test_two_tokens_of_one_project_are_different_coins() -> None:
    ours = Spelling("HOBT", "Hovbatis Token", "hobt-hovbatis-token")
    assert compare(ours, Spelling("hobt", "Hovbatis DAO", "hovbatis-dao")) is None
