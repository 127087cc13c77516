"""Test that names and ids decide whether listings with the same symbol are one asset."""

from __future__ import annotations

import pytest

from tasks.identity.similarity import (
    ID,
    JOINED_NAME,
    NAME,
    PART_OF_NAME,
    RARE_WORD,
    SAME_CORE_NAME,
    SIMILAR_NAME,
    Similarity,
    Spelling,
    compare,
    compare_loosely,
)


def spelling(name: str, id_: str = "", symbol: str = "ACM") -> Spelling:
    return Spelling(symbol, name, id_)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (spelling("Acme"), spelling("ACME"), NAME),
        (spelling("Acmé  Coin."), spelling("acme coin"), NAME),
        (spelling("AcmePad"), spelling("Acme Pad"), JOINED_NAME),
        (spelling("Acme Chain", "acm-acme-works"), spelling("Road Runner", "acme-works"), ID),
        (spelling("Anvil", "acm-anvil"), spelling("Rocket", "the-anvil"), SAME_CORE_NAME),
        (spelling("Rocket", "acm-rocket"), spelling("Acme Works", "rocket"), ID),
        (spelling("Acme"), spelling("The Acme Token"), SAME_CORE_NAME),
        (spelling("ACM"), spelling("ACM Network"), SAME_CORE_NAME),
        (spelling("ACM Token"), spelling("ACM Network"), None),
        (spelling("Acme Token"), spelling("Acme Network"), SAME_CORE_NAME),
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
def test_two_listings_are_compared_by_name_and_id(left: Spelling, right: Spelling, expected: Similarity | None) -> None:
    assert compare(left, right) == compare(right, left) == expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (spelling("Acme"), spelling("Acme Rockets"), PART_OF_NAME),
        (spelling("Acme Rockets"), spelling("Acme Anvils"), RARE_WORD),
        (spelling("Common Rockets"), spelling("Common Anvils"), None),
        (spelling("Euro Rockets"), spelling("Euro Anvils"), None),
        (spelling("ACM Rockets"), spelling("ACM Anvils"), None),
        (spelling("7 Rockets"), spelling("7 Anvils"), None),
        (spelling("Acme"), spelling("Wrapped Acme"), None),
    ],
)
def test_part_of_a_name_or_a_rare_word_is_weak_evidence(
    left: Spelling, right: Spelling, expected: Similarity | None
) -> None:
    word_counts = {"acme": 4, "common": 5}
    assert compare_loosely(left, right, word_counts) == compare_loosely(right, left, word_counts) == expected
