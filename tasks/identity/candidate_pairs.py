"""Find pairs of assets that may be the same: they share a symbol, and no source lists both. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import NamedTuple

from tasks.identity.similarity import Similarity, Spelling, compare, compare_loosely


@dataclass
class Asset:
    """An asset with its listings. decided_by_people: whether a person decided about one of the listings."""

    id: int
    slug: str
    created_at: datetime
    listing_ids: set[int] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    spellings: list[Spelling] = field(default_factory=list)
    decided_by_people: bool = False

    @property
    def keys(self) -> set[str]:
        return {spelling.key for spelling in self.spellings} - {""}

    def symbols_of(self, key: str) -> set[str]:
        return {spelling.symbol.casefold() for spelling in self.spellings if spelling.key == key}

    @property
    def words(self) -> set[str]:
        return {word for spelling in self.spellings for word in spelling.name_words}


class Pair(NamedTuple):
    """Two assets that may be the same. is_unambiguous: whether no third asset has their common symbol."""

    older: Asset
    newer: Asset
    is_unambiguous: bool

    @property
    def ids(self) -> set[int]:
        return {self.older.id, self.newer.id}

    @property
    def listing_ids(self) -> set[int]:
        return self.older.listing_ids | self.newer.listing_ids

    @property
    def keys(self) -> set[str]:
        return self.older.keys | self.newer.keys

    @property
    def is_open_to_rules(self) -> bool:
        """Return whether a rule may merge the pair. Rules never change people's decisions."""
        return self.is_unambiguous and not (self.older.decided_by_people or self.newer.decided_by_people)


def find_pairs(assets: Iterable[Asset]) -> list[Pair]:
    """Return the pairs of assets with a common symbol. assets: the oldest first.

    The order of the pairs is the same in every process.
    """
    by_key: dict[str, list[Asset]] = defaultdict(list)
    for asset in assets:
        for key in asset.keys:
            by_key[key].append(asset)
    pairs: dict[tuple[int, int], Pair] = {}
    for key in sorted(by_key):
        for older, newer in combinations(by_key[key], 2):
            if older.sources & newer.sources:
                continue
            pair = pairs.get((older.id, newer.id))
            is_unambiguous = _is_unambiguous(key, older, newer, by_key[key]) and (pair is None or pair.is_unambiguous)
            pairs[older.id, newer.id] = Pair(older, newer, is_unambiguous)
    return list(pairs.values())


def _is_unambiguous(key: str, older: Asset, newer: Asset, assets: Iterable[Asset]) -> bool:
    # If both have ACM, an asset with $ACM has another symbol, although its key is the same.
    common_symbols = older.symbols_of(key) & newer.symbols_of(key)
    owners = [asset for asset in assets if not common_symbols or asset.symbols_of(key) & common_symbols]
    return len(owners) == 2


def best_similarity(pair: Pair, word_counts: Mapping[str, int]) -> Similarity | None:
    """Return the highest similarity between the listings of two assets; None if no listings are similar.

    word_counts: see `compare_loosely`.
    """
    similarities = [
        similarity
        for left in pair.older.spellings
        for right in pair.newer.spellings
        if left.key == right.key and (similarity := compare(left, right) or compare_loosely(left, right, word_counts))
    ]
    return max(similarities, key=lambda similarity: similarity.confidence, default=None)
