"""Compare listings of different sources that share a symbol, by their names and ids. Pure.

A shared symbol alone is never enough: thousands of coins share one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

from rapidfuzz import fuzz

ListingId = TypeVar("ListingId", bound=Hashable)
Asset = TypeVar("Asset", bound=Hashable)

KEY_LENGTH = 10
"""The number of a symbol's characters that are compared. Some sources truncate symbols to this length."""


def words(text: str) -> tuple[str, ...]:
    """Split a text into words. Remove differences in case, character width and accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return tuple(re.findall(r"[^\W_]+", "".join(char for char in plain if not unicodedata.combining(char))))


GENERIC_WORDS = frozenset(
    words(
        "app chain coin coins com crypto currency dao defi ecosystem exchange fi finance foundation gov governance io"
        " labs money network org platform project protocol system the token tokens utility"
    )
)
"""Words that one source adds to a name and another omits: "Highstreet Token" is "Highstreet"."""

DISTINGUISHING_WORDS = frozenset(
    words(
        "2 3 baby bep2 bep20 bridge bridged bsc cash classic erc20 gold heco inverse long mini new oec old peg pegged"
        " pos short staked synthetic v1 v2 v3 wormhole wrapped"
    )
)
"""Words that mark another asset: "Wrapped Acme" is not "Acme". Text in brackets does the same: "Acme (Wormhole)"."""

IN_BRACKETS = re.compile(r"[(\[{]([^)\]}]*)[)\]}]")

CURRENCIES = frozenset(
    words(
        "aud brl cad chf cny dollar eur euro gbp hkd idr inr jpy krw mxn nzd php pound rub sgd thb try usd vnd yen zar"
    )
)
QUOTE_CURRENCIES = CURRENCIES | frozenset(words("bnb btc busd dai eth fdusd tusd usdc usdt xbt"))
"""Currencies that end a trading pair's id, such as UNI/USDT. They do not identify the asset."""

UNINFORMATIVE_SUFFIXES = QUOTE_CURRENCIES | {""}
NON_NAME_WORDS = GENERIC_WORDS | DISTINGUISHING_WORDS | QUOTE_CURRENCIES

MAX_ASSETS_PER_RARE_WORD = 4
"""A word is rare if at most this many assets have it in their names. A shared rare word is evidence for a match."""

MIN_NAME_RATIO = 92.0
"""The minimum similarity of nearly equal names, in percent (`fuzz.ratio`)."""

MIN_NAME_LENGTH = 8
"""The minimum length of names that may differ by a letter. In shorter names, every letter matters: Lemon, LeMoon."""


class Similarity(NamedTuple):
    """What two listings have in common besides their symbol. confidence: that both are one asset, from 0 to 1."""

    method: str
    confidence: float


NAME = Similarity("symbol_and_name", 0.95)
JOINED_NAME = Similarity("symbol_and_name", 0.94)
ID = Similarity("symbol_and_id", 0.93)
SAME_CORE_NAME = Similarity("symbol_and_core_of_name", 0.92)
SIMILAR_NAME = Similarity("symbol_and_similar_name", 0.9)
PART_OF_NAME = Similarity("symbol_and_part_of_name", 0.85)
RARE_WORD = Similarity("symbol_and_rare_word", 0.8)


@dataclass(frozen=True)
class Spelling:
    """The symbol, name and id that a source uses for an asset."""

    symbol: str
    name: str
    source_asset_id: str

    @property
    def evidence(self) -> dict[str, str]:
        """Return the spelling as JSON for the evidence of a decision."""
        return {"symbol": self.symbol, "name": self.name, "source_asset_id": self.source_asset_id}

    @cached_property
    def key(self) -> str:
        """Return the symbol, normalized for comparisons; empty if it has no letter or digit."""
        return "".join(words(self.symbol))[:KEY_LENGTH]

    @cached_property
    def _plain_name(self) -> str:
        """Return the name without the symbol in brackets that some sources append."""
        return IN_BRACKETS.sub(
            lambda brackets: "" if "".join(words(brackets[1])) == self.key else brackets[0], self.name
        )

    @cached_property
    def name_words(self) -> tuple[str, ...]:
        return words(self._plain_name)

    @cached_property
    def joined_name(self) -> str:
        """Return the name without case, accents, spaces and punctuation; empty if nothing is left."""
        return "".join(self.name_words)

    @cached_property
    def id_words(self) -> tuple[str, ...]:
        """Return the words of the id without a leading symbol; empty if the id contains no name.

        An id often contains an asset's former name.
        """
        id_words = words(self.source_asset_id)
        if not any(self._may_be_a_name(word) for word in id_words):
            return ()
        return id_words[1:] if id_words[0] == self.key else id_words

    def _may_be_a_name(self, word: str) -> bool:
        return not (word in NON_NAME_WORDS or word.isdigit() or word.removeprefix(self.key) in UNINFORMATIVE_SUFFIXES)

    @cached_property
    def distinguishing_words(self) -> frozenset[str]:
        in_brackets = words(" ".join(IN_BRACKETS.findall(self._plain_name)))
        return DISTINGUISHING_WORDS.intersection(self.name_words).union(in_brackets)

    @cached_property
    def generic_words(self) -> frozenset[str]:
        return GENERIC_WORDS.intersection(self.name_words)

    @cached_property
    def core(self) -> str:
        """Return the joined name without its generic words."""
        return _without_generic_words(self.name_words)

    @cached_property
    def names(self) -> frozenset[str]:
        """Return the names in `name` and in the id, except names that only repeat the symbol."""
        return frozenset({self.joined_name, "".join(self.id_words)} - {"", self.key})

    @cached_property
    def cores(self) -> frozenset[str]:
        """Return `names` without generic words, if at least four letters are left."""
        return frozenset(
            core
            for core in (self.core, _without_generic_words(self.id_words))
            if core != self.key and len(core) > len("abc")
        )


def _without_generic_words(name_words: Iterable[str]) -> str:
    return "".join(word for word in name_words if word not in GENERIC_WORDS)


def compare(left: Spelling, right: Spelling) -> Similarity | None:
    """Return the similarity of two listings of different sources with the same symbol; None if they are not similar."""
    if left.distinguishing_words != right.distinguishing_words:
        return None
    if left.joined_name and left.joined_name == right.joined_name:
        return NAME if left.name_words == right.name_words else JOINED_NAME
    if left.names & right.names:
        return ID
    if _have_same_core(left, right):
        return SAME_CORE_NAME
    shorter = min(len(left.joined_name), len(right.joined_name))
    if shorter >= MIN_NAME_LENGTH and _name_ratio(left, right) >= MIN_NAME_RATIO:
        return SIMILAR_NAME
    return None


def _have_same_core(left: Spelling, right: Spelling) -> bool:
    # If each has a generic word that the other lacks, they are often two assets: Sun Token, Sun DAO.
    are_rivals = left.generic_words - right.generic_words and right.generic_words - left.generic_words
    if left.core and left.core == right.core and not are_rivals:
        return True
    return bool(left.cores & right.cores)


def compare_loosely(left: Spelling, right: Spelling, word_counts: Mapping[str, int]) -> Similarity | None:
    """Return a weak similarity of two listings. It is enough for a match only if no third asset has their symbol.

    word_counts: by word, the number of assets that have it in their names.
    """
    if left.distinguishing_words != right.distinguishing_words:
        return None
    left_words, right_words = (frozenset(spelling.name_words) - GENERIC_WORDS for spelling in (left, right))
    shared = {word for word in left_words & right_words if word != left.key and not word.isdigit()}
    if shared and (left_words <= right_words or right_words <= left_words):
        return PART_OF_NAME
    if any(word_counts.get(word, 0) <= MAX_ASSETS_PER_RARE_WORD for word in shared - CURRENCIES):
        return RARE_WORD
    return None


def _name_ratio(left: Spelling, right: Spelling) -> float:
    """Return the similarity of two names in percent, regardless of the order of words."""
    in_order = fuzz.ratio(left.joined_name, right.joined_name)
    return max(in_order, fuzz.ratio(" ".join(sorted(left.name_words)), " ".join(sorted(right.name_words))))


class Match(NamedTuple, Generic[Asset]):
    """The asset that matches a listing. spelling: of the asset's most similar listing."""

    asset: Asset
    similarity: Similarity
    spelling: Spelling


def match_listings(
    listings: Mapping[ListingId, Spelling], assets: Mapping[Asset, Sequence[Spelling]]
) -> dict[ListingId, Match[Asset]]:
    """Match the listings of one source with assets that it does not list yet. Omit listings without a match.

    Pairs with the highest confidence are matched first. No listing or asset is matched twice. If two pairs of equal
    confidence compete for a listing or an asset, neither is matched.
    """
    by_confidence: dict[float, list[tuple[ListingId, Match[Asset]]]] = defaultdict(list)
    for listing, match in _possible_matches(listings, assets):
        by_confidence[match.similarity.confidence].append((listing, match))
    matches: dict[ListingId, Match[Asset]] = {}
    settled_listings: set[ListingId] = set()
    settled_assets: set[Asset] = set()
    for confidence in sorted(by_confidence, reverse=True):
        level = [
            (listing, match)
            for listing, match in by_confidence[confidence]
            if listing not in settled_listings and match.asset not in settled_assets
        ]
        listing_counts = Counter(listing for listing, _ in level)
        asset_counts = Counter(match.asset for _, match in level)
        matches |= {
            listing: match for listing, match in level if listing_counts[listing] == asset_counts[match.asset] == 1
        }
        settled_listings.update(listing_counts)
        settled_assets.update(asset_counts)
    return matches


def _possible_matches(
    listings: Mapping[ListingId, Spelling], assets: Mapping[Asset, Sequence[Spelling]]
) -> Iterator[tuple[ListingId, Match[Asset]]]:
    by_key: dict[str, list[tuple[Asset, Spelling]]] = defaultdict(list)
    for asset, spellings in assets.items():
        for spelling in spellings:
            by_key[spelling.key].append((asset, spelling))
    for listing, spelling in listings.items():
        best: dict[Asset, Match[Asset]] = {}
        for asset, other in by_key[spelling.key] if spelling.key else ():
            similarity = compare(spelling, other)
            if similarity and (asset not in best or similarity.confidence > best[asset].similarity.confidence):
                best[asset] = Match(asset, similarity, other)
        for match in best.values():
            yield listing, match
