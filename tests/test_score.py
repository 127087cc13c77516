"""What `make score` counts as right, as wrong, and not at all."""

from __future__ import annotations

import pytest

from tasks.identity.similarity import Spelling, compare
from tests.data.identity import NO_NAME_IN_COMMON, NO_SYMBOL_IN_COMMON
from tests.score import FOLDER, Score, match_folder, mistakes, rate

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


def test_all_right() -> None:
    assert rate(PAIRS, {"a": "A", "b": "B"}) == Score(1, 1, 1, 0)
    assert list(mistakes(PAIRS, {"a": "A", "b": "B"})) == []


def test_what_is_wrong_costs_precision_and_what_is_missing_recall() -> None:
    answers = {"a": "A", "b": "X", "d": "D"}
    assert rate(PAIRS, answers) == Score(1 / 3, 1 / 2, 0, 1 / 2)
    assert len(list(mistakes(PAIRS, answers))) == 3


def test_of_what_nothing_is_settled_nothing_counts() -> None:
    assert rate(PAIRS, {"a": "A", "c": "other", "e": "E"}) == Score(1, 1 / 2, 0, 0)


def test_of_the_invented_pairs_no_trap_is_accepted_and_all_is_found_that_names_can_tell() -> None:
    pairs, answers = match_folder(FOLDER)
    score = rate(pairs, answers)
    assert [line for line in mistakes(pairs, answers) if line.startswith("accepted")] == []
    assert (score.precision, score.traps_accepted_share) == (1, 0)
    missing = [pair for pair in pairs if pair["label"] == "same" and pair["coinpaprika_id"] not in answers]
    assert {pair["evidence"] for pair in missing} == {NO_NAME_IN_COMMON, NO_SYMBOL_IN_COMMON}


@pytest.mark.xfail(reason="symbol_and_core_of_name compares the cores of ids whatever words were left out")
def test_two_tokens_of_one_project_are_not_one_coin() -> None:
    ours = Spelling("HOBT", "Hovbatis Token", "hobt-hovbatis-token")
    assert compare(ours, Spelling("hobt", "Hovbatis DAO", "hovbatis-dao")) is None
