"""Match the listings of one source with assets that share a symbol, by levels of evidence, the strongest first.

Thousands of listings and assets can have one symbol. Equal names are therefore joined instead of compared pair by pair.
Only a limited number of names is compared letter by letter.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import structlog

from tasks.identity.similarity import (
    ID,
    JOINED_NAME,
    MIN_NAME_LENGTH,
    NAME,
    SAME_CORE_NAME,
    SIMILAR_NAME,
    Similarity,
    Spelling,
    are_rivals,
    have_similar_names,
)

log = structlog.get_logger()

MAX_NAME_COMPARISONS = 250_000
"""The maximum number of names that are compared letter by letter for one symbol. Beyond it, only equal names match."""

MIN_LENGTH_RATIO = 0.72
"""The minimum ratio of the lengths of two similar names, without spaces. It follows from MIN_NAME_RATIO, even if one
name has a space after each letter."""

MAX_GENERIC_COMPARISONS = 10_000
"""The maximum number of comparisons of generic words for one name. Beyond it, all its owners compete."""


class Match(NamedTuple):
    """The asset that matches a listing. spelling: of the asset's most similar listing."""

    asset: str
    similarity: Similarity
    spelling: Spelling


class _AssetSpelling(NamedTuple):
    """One spelling of an asset. number: its position among all spellings."""

    number: int
    asset: str
    spelling: Spelling


_Listing = tuple[str, Spelling]
_Pair = tuple[str, _AssetSpelling]
_FindPairs = Callable[[Sequence[_Listing], Sequence[_AssetSpelling]], Iterator[_Pair]]


def match_listings(listings: Mapping[str, Spelling], assets: Mapping[str, Sequence[Spelling]]) -> dict[str, Match]:
    """Match the listings of one source with assets that it does not list yet. Omit listings without a match.

    listings: by source_asset_id. assets: by slug.

    Pairs with the highest confidence are matched first. No listing or asset is matched twice. If two pairs of equal
    confidence compete for a listing or an asset, neither is matched.
    """
    listings_by_key: dict[Hashable, list[_Listing]] = defaultdict(list)
    for listing, spelling in listings.items():
        if spelling.key:
            listings_by_key[spelling.key, spelling.distinguishing_words].append((listing, spelling))
    assets_by_key: dict[Hashable, list[_AssetSpelling]] = defaultdict(list)
    spellings = ((asset, spelling) for asset, spellings in assets.items() for spelling in spellings)
    for number, (asset, spelling) in enumerate(spellings):
        assets_by_key[spelling.key, spelling.distinguishing_words].append(_AssetSpelling(number, asset, spelling))
    # An asset can have several symbols, so match each level for all symbols before the next level.
    groups = [(listings_by_key[key], assets_by_key[key]) for key in listings_by_key.keys() & assets_by_key.keys()]
    matches: dict[str, Match] = {}
    settled_listings: set[str] = set()
    settled_assets: set[str] = set()
    for similarity, find_pairs in _LEVELS:
        level = _Level()
        for group_listings, group_assets in groups:
            level.add(
                find_pairs(
                    [listing for listing in group_listings if listing[0] not in settled_listings],
                    [asset for asset in group_assets if asset.asset not in settled_assets],
                )
            )
        matches.update(level.unambiguous(similarity))
        settled_listings |= level.assets_of.keys()
        settled_assets |= level.listings_of.keys()
    return matches


class _Level:
    """Enough pairs of one level of evidence to show which listings and assets have exactly one partner."""

    def __init__(self) -> None:
        self.assets_of: dict[str, dict[str, _AssetSpelling]] = defaultdict(dict)
        self.listings_of: dict[str, set[str]] = defaultdict(set)

    def add(self, pairs: Iterable[_Pair]) -> None:
        for listing, asset in pairs:
            known = self.assets_of[listing].get(asset.asset)
            if known is None or asset.number < known.number:
                self.assets_of[listing][asset.asset] = asset
            self.listings_of[asset.asset].add(listing)

    def unambiguous(self, similarity: Similarity) -> Iterator[tuple[str, Match]]:
        for listing, assets in self.assets_of.items():
            [first, *others] = assets.values()
            if not others and len(self.listings_of[first.asset]) == 1:
                yield listing, Match(first.asset, similarity, first.spelling)


def _joined(values: Callable[[Spelling], Iterable[Hashable]]) -> _FindPairs:
    """Return a function that finds the pairs with a common value."""

    def find_pairs(listings: Sequence[_Listing], assets: Sequence[_AssetSpelling]) -> Iterator[_Pair]:
        for sharing_listings, sharing_assets in _buckets(values, listings, assets):
            yield from _representative_pairs(sharing_listings, sharing_assets)

    return find_pairs


def _buckets(
    values: Callable[[Spelling], Iterable[Hashable]],
    listings: Sequence[_Listing],
    assets: Sequence[_AssetSpelling],
) -> Iterator[tuple[list[_Listing], list[_AssetSpelling]]]:
    """Yield, for each value that a listing and an asset share, the listings and the assets that have it."""
    listings_by_value: dict[Hashable, list[_Listing]] = defaultdict(list)
    for listing in listings:
        for value in values(listing[1]):
            listings_by_value[value].append(listing)
    assets_by_value: dict[Hashable, list[_AssetSpelling]] = defaultdict(list)
    for asset in assets:
        for value in values(asset.spelling):
            if value in listings_by_value:
                assets_by_value[value].append(asset)
    for value, sharing_assets in assets_by_value.items():
        yield listings_by_value[value], sharing_assets


def _representative_pairs(listings: Sequence[_Listing], assets: Sequence[_AssetSpelling]) -> Iterator[_Pair]:
    """Yield enough pairs to show which listings and assets have exactly one partner: at most 2 (n + m) pairs."""
    # Two partners are enough to show that there is not exactly one. An asset's first spelling is its evidence.
    first_spellings = {asset.asset: asset for asset in reversed(assets)}
    partners = [*first_spellings.values()]
    for listing, _ in listings:
        for asset in partners[:2] if len(listings) > 1 else partners:
            yield listing, asset
    for asset in partners:
        for listing, _ in listings[:2] if len(partners) > 1 else listings:
            yield listing, asset


def _same_name(spelling: Spelling) -> Iterable[Hashable]:
    return [spelling.name_words] if spelling.joined_name else ()


def _same_joined_name(spelling: Spelling) -> Iterable[Hashable]:
    return [spelling.joined_name] if spelling.joined_name else ()


def _same_core(spelling: Spelling) -> Iterable[Hashable]:
    return [spelling.core] if spelling.core else ()


def _pairs_with_same_core(listings: Sequence[_Listing], assets: Sequence[_AssetSpelling]) -> Iterator[_Pair]:
    """Yield pairs with the same core, unless each name has a generic word that the other lacks."""
    yield from _joined(lambda spelling: spelling.cores)(listings, assets)
    for sharing_listings, sharing_assets in _buckets(_same_core, listings, assets):
        listings_by_words: dict[frozenset[str], list[_Listing]] = defaultdict(list)
        for listing in sharing_listings:
            listings_by_words[listing[1].generic_words].append(listing)
        assets_by_words: dict[frozenset[str], list[_AssetSpelling]] = defaultdict(list)
        for asset in sharing_assets:
            assets_by_words[asset.spelling.generic_words].append(asset)
        if len(listings_by_words) * len(assets_by_words) > MAX_GENERIC_COMPARISONS:
            yield from _representative_pairs(sharing_listings, sharing_assets)
            continue
        for left, left_listings in listings_by_words.items():
            for right, right_assets in assets_by_words.items():
                if not are_rivals(left, right):
                    yield from _representative_pairs(left_listings, right_assets)


def _pairs_with_similar_names(listings: Sequence[_Listing], assets: Sequence[_AssetSpelling]) -> Iterator[_Pair]:
    """Yield pairs with nearly equal names, unless too many names would be compared."""
    left_names = _by_name((listing[1], listing) for listing in listings)
    right_names = _by_name((asset.spelling, asset) for asset in assets)
    lengths = [len(names[0].joined_name) for names in right_names]
    windows = [
        (bisect_left(lengths, length * MIN_LENGTH_RATIO), bisect_right(lengths, length / MIN_LENGTH_RATIO))
        for length in (len(names[0].joined_name) for names in left_names)
    ]
    comparisons = sum(end - start for start, end in windows)
    if comparisons > MAX_NAME_COMPARISONS:
        log.warning("similar_names_skipped", symbol=left_names[0][0].key, comparisons=comparisons)
        return
    for (left, left_listings), (start, end) in zip(left_names, windows, strict=True):
        for right, right_assets in right_names[start:end]:
            if have_similar_names(left, right):
                yield from _representative_pairs(left_listings, right_assets)


Owner = TypeVar("Owner")


def _by_name(owners: Iterable[tuple[Spelling, Owner]]) -> list[tuple[Spelling, list[Owner]]]:
    """Return one spelling of each long name, with its owners. The shortest names come first."""
    by_name: dict[Hashable, tuple[Spelling, list[Owner]]] = {}
    for spelling, owner in owners:
        if len(spelling.joined_name) >= MIN_NAME_LENGTH:
            by_name.setdefault(spelling.name_words, (spelling, []))[1].append(owner)
    return sorted(by_name.values(), key=lambda names: len(names[0].joined_name))


_LEVELS: Sequence[tuple[Similarity, _FindPairs]] = (
    (NAME, _joined(_same_name)),
    (JOINED_NAME, _joined(_same_joined_name)),
    (ID, _joined(lambda spelling: spelling.names)),
    (SAME_CORE_NAME, _pairs_with_same_core),
    (SIMILAR_NAME, _pairs_with_similar_names),
)
"""The levels of evidence, the strongest first, each with the function that finds its pairs. A pair that a stronger
level found is settled by it, so that a weaker level need not leave it out."""
