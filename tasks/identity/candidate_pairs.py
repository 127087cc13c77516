"""Find pairs of assets that may be the same: they share a symbol, and no source lists both. Pure.

If few assets share a symbol, all their pairs are found. Otherwise only two kinds of pairs are found: pairs that a rule
may merge, and a few pairs with equal names for each asset. So the time is not quadratic in the number of assets.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import NamedTuple

from sources.key_text import clean_key_text
from tasks.identity.similarity import Similarity, Spelling, compare, compare_loosely

MAX_COMPARED_ASSETS = 50
"""If more assets share a symbol, not all their pairs are found."""

MAX_PAIRS_PER_ASSET = 3
"""The maximum number of an asset's pairs with equal names, if too many assets share its symbol."""

MAX_COMPARED_SPELLINGS = 100
"""The maximum number of an asset's spellings that are compared."""

OWNERS_OF_A_PAIR = 2
"""The number of assets with a symbol if two of them are an unambiguous pair."""

ASSETS_PER_STEP = 500
"""The number of assets to prepare for comparison before the caller can interrupt the work."""


@dataclass(slots=True)
class Asset:
    """An asset with its listings.

    sources, ids: the source of each listing, and its source with the source's id.
    decided_by_people: whether a person decided about one of the listings.
    """

    id: int
    slug: str
    created_at: datetime
    listing_ids: set[int] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    ids: set[tuple[str, str]] = field(default_factory=set)
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
    """Two assets that may be the same.

    is_unambiguous: whether no third asset has their common symbol.
    is_respelled:   whether one source lists both, with ids that are equal except for invisible characters or wrappings.
    """

    older: Asset
    newer: Asset
    is_unambiguous: bool
    is_respelled: bool = False

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


def find_pairs(assets: Iterable[Asset]) -> Iterator[list[Pair]]:
    """Yield the pairs of assets with a common symbol. assets: the oldest first.

    Each list takes only a short time to find, so that the caller can pause after it. The order of the pairs is the same
    in every process.
    """
    groups: dict[str, _Group] = {}
    for position, asset in enumerate(assets):
        if position % ASSETS_PER_STEP == 0:
            yield []
        for key in asset.keys:
            groups.setdefault(key, _Group(key)).add(asset)
    groups = {key: group for key, group in groups.items() if len(group.assets) > 1}
    pairs_of_several_keys: set[tuple[int, int]] = set()
    for key in sorted(groups):
        for pairs in _related_assets(groups[key]):
            new = []
            for older, newer in pairs:
                keys = sorted(older.keys & newer.keys & groups.keys())
                if len(keys) > 1:
                    if (older.id, newer.id) in pairs_of_several_keys:
                        continue
                    pairs_of_several_keys.add((older.id, newer.id))
                new.append(Pair(older, newer, all(groups[key].is_unambiguous(older, newer) for key in keys)))
            yield new


def find_respelled_pairs(assets: Sequence[Asset]) -> list[Pair]:
    """Return the pairs of assets that one source lists with ids that are equal when cleaned. assets: the oldest first.

    Listings that were stored before ids were cleaned still have their old ids. No rule may merge such a pair.
    """
    cleaned = {(source, clean_key_text(id_)) for asset in assets for source, id_ in asset.ids if _is_unclean(id_)}
    if not cleaned:
        return []
    groups: dict[tuple[str, str], dict[int, Asset]] = defaultdict(dict)
    for asset in assets:
        for source, id_ in asset.ids:
            if (key := (source, clean_key_text(id_))) in cleaned:
                groups[key][asset.id] = asset
    pairs = {(a.id, b.id): (a, b) for group in groups.values() for a, b in combinations(group.values(), 2)}
    return [Pair(older, newer, is_unambiguous=False, is_respelled=True) for older, newer in pairs.values()]


def _is_unclean(id_: str) -> bool:
    return clean_key_text(id_) != id_


class _Group:
    """The assets that share the key of a symbol, the oldest first. owners: by symbol, the number of assets with it."""

    def __init__(self, key: str):
        self.key = key
        self.assets: list[Asset] = []
        self.owners: Counter[str] = Counter()

    def add(self, asset: Asset) -> None:
        self.assets.append(asset)
        self.owners.update(asset.symbols_of(self.key))

    def is_unambiguous(self, older: Asset, newer: Asset) -> bool:
        # If both assets have ACM, a third asset with $ACM has another symbol, although its key is the same.
        common_symbols = older.symbols_of(self.key) & newer.symbols_of(self.key)
        if not common_symbols:
            return len(self.assets) == OWNERS_OF_A_PAIR
        return all(self.owners[symbol] == OWNERS_OF_A_PAIR for symbol in common_symbols)


def _related_assets(group: _Group) -> Iterator[list[tuple[Asset, Asset]]]:
    """Yield the pairs of a group whose assets have no source in common. In each pair, the older asset comes first."""
    if len(group.assets) <= MAX_COMPARED_ASSETS:
        yield [pair for pair in combinations(group.assets, 2) if pair[0].sources.isdisjoint(pair[1].sources)]
        return
    by_symbol: dict[str, list[Asset]] = defaultdict(list)
    by_value: dict[Hashable, dict[int, Asset]] = defaultdict(dict)
    for position, asset in enumerate(group.assets):
        if position % ASSETS_PER_STEP == 0:
            yield []
        for symbol in asset.symbols_of(group.key):
            if group.owners[symbol] == OWNERS_OF_A_PAIR:
                by_symbol[symbol].append(asset)
        for value in _comparable_values(asset, group.key):
            by_value[value][asset.id] = asset
    found = {
        (older.id, newer.id): (older, newer)
        for older, newer in by_symbol.values()
        if older.sources.isdisjoint(newer.sources)
    }
    yield list(found.values())
    counts: Counter[int] = Counter()
    for assets in by_value.values():
        if len(assets) == 1:
            continue
        pairs = {(older.id, newer.id): (older, newer) for older, newer in _sampled_pairs([*assets.values()], counts)}
        yield [pair for ids, pair in pairs.items() if ids not in found]
        found |= pairs


def _comparable_values(asset: Asset, key: str) -> Iterator[Hashable]:
    """Yield values of which similar assets have at least one in common. Nearly equal names have none in common."""
    for spelling in asset.spellings[:MAX_COMPARED_SPELLINGS]:
        if spelling.key == key:
            yield from spelling.comparable_values


def _sampled_pairs(assets: Sequence[Asset], counts: Counter[int]) -> Iterator[tuple[Asset, Asset]]:
    """Yield a few pairs of each asset with assets of other sources.

    counts: by asset, the number of its pairs so far.
    """
    by_sources: dict[frozenset[str], list[Asset]] = defaultdict(list)
    for asset in assets:
        by_sources[frozenset(asset.sources)].append(asset)
    for (left_sources, left), (right_sources, right) in combinations(by_sources.items(), 2):
        if not left_sources.isdisjoint(right_sources):
            continue
        few, many = sorted((left, right), key=len)
        for position, asset in enumerate(few):
            for shift in range(min(MAX_PAIRS_PER_ASSET, len(many))):
                other = many[(position + shift) % len(many)]
                if max(counts[asset.id], counts[other.id]) < MAX_PAIRS_PER_ASSET:
                    counts.update((asset.id, other.id))
                    yield (asset, other) if asset.id < other.id else (other, asset)


def best_similarity(pair: Pair, word_counts: Mapping[str, int]) -> Similarity | None:
    """Return the highest similarity between the listings of two assets; None if no listings are similar.

    word_counts: see `compare_loosely`.
    """
    similarities = [
        similarity
        for left in pair.older.spellings[:MAX_COMPARED_SPELLINGS]
        for right in pair.newer.spellings[:MAX_COMPARED_SPELLINGS]
        if left.key == right.key and (similarity := compare(left, right) or compare_loosely(left, right, word_counts))
    ]
    return max(similarities, key=lambda similarity: similarity.confidence, default=None)
