"""Test that listings are matched with assets by the strongest evidence, with work that grows linearly."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from tasks.identity import matching
from tasks.identity.matching import match_listings
from tasks.identity.similarity import NAME, Similarity, Spelling, compare
from tests.calls import count_calls

NAME_WORDS = ("acme", "anvil", "coin", "network", "rocket", "rockets", "sun", "the", "token", "v2", "wrapped")


def spelling(name: str, id_: str = "", symbol: str = "ACM") -> Spelling:
    return Spelling(symbol, name, id_)


def matches(listings: dict[str, Spelling], assets: dict[str, list[Spelling]]) -> dict[str, tuple[str, Similarity]]:
    return {listing: (match.asset, match.similarity) for listing, match in match_listings(listings, assets).items()}


def test_the_better_match_wins() -> None:
    listings = {"coin": spelling("Acme Coin"), "plain": spelling("Acme")}
    assert matches(listings, {"asset": [spelling("acme")]}) == {"plain": ("asset", NAME)}
    assert matches({"plain": spelling("Acme")}, {"token": [spelling("Acme Token")], "asset": [spelling("acme")]}) == {
        "plain": ("asset", NAME)
    }


def test_two_equally_good_matches_are_both_discarded() -> None:
    rivals = {"token": [spelling("Acme Token")], "the": [spelling("The Acme")]}
    assert matches({"plain": spelling("Acme")}, rivals) == {}
    assert matches({name: spellings[0] for name, spellings in rivals.items()}, {"asset": [spelling("Acme")]}) == {}


def test_any_listing_of_an_asset_can_match() -> None:
    asset = {"asset": [spelling("Road Runner"), spelling("Acme")]}
    assert matches({"listing": spelling("ACME")}, asset) == {"listing": ("asset", NAME)}


def test_a_dollar_prefix_or_truncation_does_not_change_a_symbol() -> None:
    asset = {"asset": [spelling("Acme", symbol="acmeanvilworks")]}
    assert matches({"listing": spelling("Acme", symbol="$ACMEANVILW")}, asset) == {"listing": ("asset", NAME)}
    assert matches({"listing": spelling("Acme", symbol="ACMEANVIL")}, asset) == {}
    assert matches({"listing": spelling("Acme", symbol="💩")}, {"asset": [spelling("Acme", symbol="?")]}) == {}


def match_by_comparing_all(
    listings: Mapping[str, Spelling], assets: Mapping[str, Sequence[Spelling]]
) -> dict[str, tuple[str, Similarity]]:
    """Match as `match_listings` describes, but compare each listing with each asset."""
    similarities: dict[Similarity, list[tuple[str, str]]] = defaultdict(list)
    for listing, left in listings.items():
        for asset, spellings in assets.items():
            found = [
                similarity for right in spellings if left.key == right.key and (similarity := compare(left, right))
            ]
            if found:
                similarities[max(found, key=lambda similarity: similarity.confidence)].append((listing, asset))
    matched: dict[str, tuple[str, Similarity]] = {}
    settled: set[str] = set()
    for similarity in sorted(similarities, key=lambda similarity: -similarity.confidence):
        pairs = [pair for pair in similarities[similarity] if settled.isdisjoint(pair)]
        counts = Counter(name for pair in pairs for name in pair)
        matched |= {listing: (asset, similarity) for listing, asset in pairs if counts[listing] == counts[asset] == 1}
        settled.update(counts)
    return matched


def invent_name(random_: random.Random) -> str:
    name = random_.choice((" ", "", "-")).join(random_.choices(NAME_WORDS, k=random_.randint(1, 3)))
    return name[:-1] + random_.choice(("x", "y", " (Wormhole)")) if random_.random() < 0.2 else name


def invent_spelling(random_: random.Random) -> Spelling:
    id_ = random_.choice(("", "7", f"acm-{invent_name(random_)}", invent_name(random_)))
    return spelling(invent_name(random_), id_, random_.choice(("ACM", "ACM", "$acm", "ANV")))


@pytest.mark.parametrize("seed", range(10))
def test_joining_names_has_the_result_of_comparing_all_pairs(seed: int) -> None:
    matched = 0
    for part in range(100):
        random_ = random.Random(100 * seed + part)
        listings = {f"listing-{n}": invent_spelling(random_) for n in range(random_.randint(1, 6))}
        assets = {
            f"asset-{n}": [invent_spelling(random_) for _ in range(random_.randint(1, 3))]
            for n in range(random_.randint(1, 6))
        }
        expected = match_by_comparing_all(listings, assets)
        assert matches(listings, assets) == expected
        matched += len(expected)
    assert matched > 5


@pytest.mark.parametrize("names", [["Pepe"], ["Pepe", "PEPE Coin", "The Pepe"], ["Pepecash", "Pepe Cash"]])
def test_the_work_for_many_listings_of_one_name_grows_linearly(names: list[str]) -> None:
    def match(count: int) -> None:
        listings = {f"{n}": spelling(names[n % len(names)], f"{n}", "PEPE") for n in range(count)}
        assets = {f"asset-{n}": [spelling(names[n % len(names)], f"{n}", "PEPE")] for n in range(count)}
        assert match_listings(listings, assets) == {}

    assert count_calls(lambda: match(1000)) < 2.5 * count_calls(lambda: match(500))


def test_too_many_names_of_one_symbol_are_not_compared_letter_by_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    listings = {f"{n}": spelling(f"Acme Rockets {n:04}") for n in range(30)}
    assets = {"one": [spelling("Acme Rocket 0007")], "two": [spelling("Acme Rockets 0008")]}
    monkeypatch.setattr(matching, "MAX_NAME_COMPARISONS", 28)
    with capture_logs() as events:
        assert matches(listings, assets) == {"8": ("two", NAME)}
    assert events == [{"event": "similar_names_skipped", "log_level": "warning", "symbol": "acm", "comparisons": 29}]
