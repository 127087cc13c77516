"""What `make score` counts as right, as wrong, and not at all."""

from __future__ import annotations

from tests.score import Score, mistakes, rate

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
