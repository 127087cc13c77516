"""Pairs of assets that may be one: of one symbol, and no source lists both. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import NamedTuple

from tasks.identity.similarity import Similarity, Spelling, similarity, weak_similarity


@dataclass
class Asset:
    """listings: their ids. by_people: whether a person decided of one of them."""

    id: int
    slug: str
    made_at: datetime
    listings: set[int] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    spellings: list[Spelling] = field(default_factory=list)
    by_people: bool = False

    @property
    def keys(self) -> set[str]:
        return {it.key for it in self.spellings} - {""}

    def symbols_of(self, key: str) -> set[str]:
        return {it.symbol.casefold() for it in self.spellings if it.key == key}

    @property
    def words(self) -> set[str]:
        return {word for it in self.spellings for word in it.name_words}


class Pair(NamedTuple):
    """Two assets, the older first, that no source lists both of. alone: no third has a symbol that they share."""

    one: Asset
    other: Asset
    alone: bool

    @property
    def ids(self) -> set[int]:
        return {self.one.id, self.other.id}

    @property
    def listings(self) -> set[int]:
        return self.one.listings | self.other.listings

    @property
    def keys(self) -> set[str]:
        return self.one.keys | self.other.keys

    @property
    def may_be_merged(self) -> bool:
        """By a rule: what people decided, only people decide anew."""
        return self.alone and not (self.one.by_people or self.other.by_people)


def pairs_of(assets: Iterable[Asset]) -> list[Pair]:
    """Those of one symbol, in an order that is the same in every process."""
    by_key: dict[str, list[Asset]] = defaultdict(list)
    for asset in assets:
        for key in asset.keys:
            by_key[key].append(asset)
    found: dict[tuple[int, int], Pair] = {}
    for key in sorted(by_key):
        for one, other in combinations(by_key[key], 2):
            if one.sources & other.sources:
                continue
            # $ACM is another symbol than ACM, where two have ACM.
            exactly = one.symbols_of(key) & other.symbols_of(key)
            rivals = [it for it in by_key[key] if not exactly or it.symbols_of(key) & exactly]
            before = found.get((one.id, other.id))
            alone = len(rivals) == 2 and (before is None or before.alone)
            found[one.id, other.id] = Pair(one, other, alone)
    return list(found.values())


def most_alike(pair: Pair, common: Mapping[str, int]) -> Similarity | None:
    """The most that any two of their listings have in common."""
    found = [
        alike
        for mine in pair.one.spellings
        for theirs in pair.other.spellings
        if mine.key == theirs.key and (alike := similarity(mine, theirs) or weak_similarity(mine, theirs, common))
    ]
    return max(found, key=lambda alike: alike.confidence, default=None)
