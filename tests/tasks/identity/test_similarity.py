"""Which listings of one symbol are the same thing, by what their names and ids say."""

from __future__ import annotations

import pytest

from tasks.identity.similarity import CORE, ID, JOINED_NAME, NAME, SIMILAR_NAME, Similarity, Spelling, match, similarity


def spelling(name: str, id_: str = "", symbol: str = "ACM") -> Spelling:
    return Spelling(symbol, name, id_)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (spelling("Acme"), spelling("ACME"), NAME),
        (spelling("Acmé  Coin."), spelling("acme coin"), NAME),
        (spelling("AcmePad"), spelling("Acme Pad"), JOINED_NAME),
        (spelling("Acme Chain", "acm-acme-works"), spelling("Road Runner", "acme-works"), ID),
        (spelling("Anvil", "acm-anvil"), spelling("Rocket", "the-anvil"), CORE),
        (spelling("Rocket", "acm-rocket"), spelling("Acme Works", "rocket"), ID),
        (spelling("Acme"), spelling("The Acme Token"), CORE),
        (spelling("ACM"), spelling("ACM Network"), CORE),
        (spelling("ACM Token"), spelling("ACM Network"), None),
        (spelling("Acme Token"), spelling("Acme Network"), CORE),
        (spelling("Legends of Acme War"), spelling("Legend of Acme War"), SIMILAR_NAME),
        (spelling("Acme Online World"), spelling("Acme World Online"), SIMILAR_NAME),
        (spelling("Acmes"), spelling("Acme"), None),
        (spelling("Acme"), spelling("Acme (Wormhole)"), None),
        (spelling("Acme (BSC)"), spelling("acme (bsc)"), NAME),
        (spelling("Acme"), spelling("Acme [ACM]"), NAME),
        (spelling("Acme"), spelling("Wrapped Acme"), None),
        (spelling("Acme", "acm-acme"), spelling("Acme Classic", "acme"), None),
        (spelling("ACM", "acm"), spelling("Anvil", "acm"), None),
        (spelling("!?"), spelling("!?"), None),
        (spelling("Acme", "ACM/USDT"), spelling("Road Runner", "ACM-USDT"), None),
        (spelling("Acme", "ACMUSDT"), spelling("Road Runner", "acmusdt"), None),
        (spelling("Acme", "USDC-ACM"), spelling("Road Runner", "USDC-ACM"), None),
        (spelling("Acme", "acm-btc"), spelling("Road Runner", "ACM_BTC"), None),
        (spelling("Acme", "acm-token"), spelling("Road Runner", "token"), None),
        (spelling("Acme", "acm-finance"), spelling("Road Runner", "finance"), None),
        (spelling("Acme", "acm-2"), spelling("Road Runner", "acm-2"), None),
        (spelling("Acme", "acm-v2"), spelling("Road Runner", "acm-v2"), None),
        (spelling("Acme", "acm-anvil-2"), spelling("Road Runner", "anvil-2"), ID),
    ],
)
def test_names_and_ids_say_whether_two_are_one(one: Spelling, other: Spelling, alike: Similarity | None) -> None:
    assert similarity(one, other) == similarity(other, one) == alike


def matched(those: dict[str, Spelling], assets: dict[str, list[Spelling]]) -> dict[str, tuple[str, Similarity]]:
    return {place: (found.asset, found.alike) for place, found in match(those, assets).items()}


def test_the_better_match_comes_first_whoever_asks() -> None:
    those = {"coin": spelling("Acme Coin"), "plain": spelling("Acme")}
    assert matched(those, {"asset": [spelling("acme")]}) == {"plain": ("asset", NAME)}
    assert matched({"plain": spelling("Acme")}, {"token": [spelling("Acme Token")], "asset": [spelling("acme")]}) == {
        "plain": ("asset", NAME)
    }


def test_two_as_good_as_each_other_are_neither() -> None:
    two = {"one": [spelling("Acme Token")], "other": [spelling("The Acme")]}
    assert matched({"plain": spelling("Acme")}, two) == {}
    assert matched({name: spellings[0] for name, spellings in two.items()}, {"asset": [spelling("Acme")]}) == {}


def test_any_of_an_assets_listings_will_do() -> None:
    asset = {"asset": [spelling("Road Runner"), spelling("Acme")]}
    assert matched({"it": spelling("ACME")}, asset) == {"it": ("asset", NAME)}


def test_a_symbol_is_the_same_with_a_dollar_or_cut_off() -> None:
    asset = {"asset": [spelling("Acme", symbol="acmeanvilworks")]}
    assert matched({"it": spelling("Acme", symbol="$ACMEANVILW")}, asset) == {"it": ("asset", NAME)}
    assert matched({"it": spelling("Acme", symbol="ACMEANVIL")}, asset) == {}
    assert matched({"it": spelling("Acme", symbol="💩")}, {"asset": [spelling("Acme", symbol="?")]}) == {}
