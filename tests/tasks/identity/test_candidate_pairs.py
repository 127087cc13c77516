"""Test that two assets with a common symbol form a pair if no source lists both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from tasks.identity import candidate_pairs
from tasks.identity.candidate_pairs import Asset, Pair, best_similarity, find_respelled_pairs
from tasks.identity.similarity import NAME, PART_OF_NAME, Spelling
from tests.calls import count_calls

CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def asset(id_: int, source: str, *spellings: tuple[str, str], decided_by_people: bool = False) -> Asset:
    """Return an asset of one source. spellings: pairs of a symbol and a name."""
    return Asset(
        id_,
        f"asset-{id_}",
        CREATED,
        listing_ids={10 * id_},
        sources={source},
        spellings=[Spelling(symbol, name, "") for symbol, name in spellings],
        decided_by_people=decided_by_people,
    )


def find_pairs(assets: Iterable[Asset]) -> list[Pair]:
    return [pair for pairs in candidate_pairs.find_pairs(assets) for pair in pairs]


def ids_of(pairs: list[Pair]) -> list[tuple[int, int, bool]]:
    return [(pair.older.id, pair.newer.id, pair.is_unambiguous) for pair in pairs]


def test_assets_with_a_common_symbol_are_a_pair() -> None:
    pairs = find_pairs([asset(1, "a", ("ACM", "Acme")), asset(2, "b", ("acm", "Acme")), asset(3, "b", ("ANV", "Acme"))])
    assert ids_of(pairs) == [(1, 2, True)]
    assert pairs[0].ids == {1, 2}
    assert pairs[0].listing_ids == {10, 20}
    assert pairs[0].keys == {"acm"}


def test_assets_of_one_source_are_not_a_pair() -> None:
    assert find_pairs([asset(1, "a", ("ACM", "Acme")), asset(2, "a", ("ACM", "Acme"))]) == []


def test_a_symbol_without_letters_forms_no_pair() -> None:
    assert find_pairs([asset(1, "a", ("💩", "Acme")), asset(2, "b", ("?", "Acme"))]) == []


def test_a_third_asset_with_the_same_symbol_makes_pairs_ambiguous() -> None:
    assets = [asset(number, source, ("ACM", "Acme")) for number, source in ((1, "a"), (2, "b"), (3, "b"))]
    assert ids_of(find_pairs(assets)) == [(1, 2, False), (1, 3, False)]


def test_a_dollar_prefix_is_ignored_unless_two_assets_have_the_plain_symbol() -> None:
    plain = [asset(1, "a", ("ACM", "Acme")), asset(2, "b", ("acm", "Acme"))]
    with_dollar = asset(3, "b", ("$ACM", "Acme"))
    assert ids_of(find_pairs([*plain, with_dollar])) == [(1, 2, True), (1, 3, False)]
    assert ids_of(find_pairs([plain[0], with_dollar])) == [(1, 3, True)]


@pytest.mark.parametrize("symbol", ["ACM", "ANV"])
def test_a_pair_is_ambiguous_if_any_of_its_symbols_is_ambiguous(symbol: str) -> None:
    symbols = ("ACM", "Acme"), ("ANV", "Acme")
    third = asset(3, "b", (symbol, "Acme"))
    assert ids_of(find_pairs([asset(1, "a", *symbols), asset(2, "b", *symbols), third]))[0] == (1, 2, False)


def test_rules_skip_ambiguous_pairs_and_assets_decided_by_people() -> None:
    by_rule, by_person = asset(1, "a"), asset(2, "b", decided_by_people=True)
    assert Pair(by_rule, by_rule, is_unambiguous=True).is_open_to_rules
    assert not Pair(by_rule, by_rule, is_unambiguous=False).is_open_to_rules
    assert not Pair(by_rule, by_person, is_unambiguous=True).is_open_to_rules
    assert not Pair(by_person, by_rule, is_unambiguous=True).is_open_to_rules


def test_the_strongest_evidence_of_any_two_listings_counts() -> None:
    older = asset(1, "a", ("ACM", "Acme Rockets"), ("ACM", "Acme"))
    assert best_similarity(Pair(older, asset(2, "b", ("ACM", "Acme")), True), {}) == NAME
    assert best_similarity(Pair(older, asset(2, "b", ("ACM", "Acme Anvils")), True), {}) == PART_OF_NAME
    assert best_similarity(Pair(older, asset(2, "b", ("ANV", "Acme")), True), {}) is None


def many(count: int, *names: str) -> list[Asset]:
    """Return assets of two sources in turn, with one symbol. The names are repeated."""
    return [asset(n, "ab"[n % 2], ("ACM", names[n % len(names)])) for n in range(count)]


def test_many_assets_with_one_name_form_few_pairs_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate_pairs, "MAX_COMPARED_ASSETS", 10)
    pairs = find_pairs(many(100, "Acme"))
    counts = Counter(id_ for pair in pairs for id_ in pair.ids)
    assert len({frozenset(pair.ids) for pair in pairs}) == len(pairs) == 150
    assert set(counts.values()) == {3}
    assert not any(pair.is_unambiguous or pair.older.id > pair.newer.id for pair in pairs)


def test_among_many_assets_equal_names_and_symbols_of_two_assets_form_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate_pairs, "MAX_COMPARED_ASSETS", 10)
    others = [asset(n, "ab"[n % 2], ("ACM", f"Other {n}")) for n in range(20)]
    equal = [asset(30, "a", ("ACM", "Road Runner")), asset(31, "b", ("ACM", "Roadrunner Token"))]
    rare = [asset(40, "a", ("$ACM", "Anvil")), asset(41, "b", ("$ACM", "Rocket"))]
    assert ids_of(find_pairs([*others, *equal, *rare])) == [(40, 41, True), (30, 31, False)]


def test_the_work_for_many_assets_of_one_symbol_grows_linearly() -> None:
    def pair(count: int) -> None:
        assert find_pairs(many(count, "Acme", "Acme Coin", "Anvil"))

    assert count_calls(lambda: pair(1200)) < 2.5 * count_calls(lambda: pair(600))


def test_the_work_can_be_interrupted_while_many_assets_are_prepared() -> None:
    assert sum(1 for _ in candidate_pairs.find_pairs(many(2000, "Acme"))) >= 4


def respelled(*ids: str) -> list[tuple[int, int, bool]]:
    assets = [asset(number, "a", ("ACM", "Acme")) for number in range(len(ids))]
    for listed, id_ in zip(assets, ids, strict=True):
        listed.ids = {("a", id_)}
    return ids_of(find_respelled_pairs(assets))


def test_ids_of_one_source_that_differ_only_in_what_cleaning_removes_form_a_pair() -> None:
    assert respelled("acme", "\ufeffacme", "acm") == [(0, 1, False)]
    assert respelled("\u200bacme", "\ufeffacme", '"acme"', "acme ") == [
        (0, 1, False),
        (0, 2, False),
        (0, 3, False),
        (1, 2, False),
        (1, 3, False),
        (2, 3, False),
    ]
    assert respelled("acme", "acme") == respelled("acme", "ACME") == []


def test_the_same_id_of_two_sources_is_no_pair_of_respelled_ids() -> None:
    listed = [asset(1, "a", ("ACM", "Acme")), asset(2, "b", ("ACM", "Acme"))]
    listed[0].ids, listed[1].ids = {("a", "\ufeffacme")}, {("b", "acme")}
    assert find_respelled_pairs(listed) == []
