"""Compare listings of different sources that share a symbol, by their names and ids. Pure.

A shared symbol alone is never enough: thousands of coins share one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from rapidfuzz import fuzz

KEY_LENGTH = 10
"""The number of a symbol's characters that are compared. Some sources truncate symbols to this length."""


WORD = re.compile(r"[^\W_]+")

MAX_CACHED_TEXTS = 20_000


@lru_cache(MAX_CACHED_TEXTS)  # Thousands of listings can have one symbol and one name.
def words(text: str) -> tuple[str, ...]:
    """Split a text into words. Remove differences in case, character width and accents."""
    if text.isascii():
        return tuple(WORD.findall(text.lower()))
    plain = unicodedata.normalize("NFKD", text).casefold()
    return tuple(WORD.findall("".join(char for char in plain if not unicodedata.combining(char))))


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
    def sorted_name(self) -> str:
        """Return the words of the name in alphabetical order."""
        return " ".join(sorted(self.name_words))

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

    @cached_property
    def comparable_values(self) -> tuple[Hashable, ...]:
        """Return values of which similar listings have at least one in common. Nearly equal names have none."""
        values = {self.joined_name, self.core, *self.names, *self.cores} - {""}
        return tuple((value, self.distinguishing_words) for value in sorted(values))

    @cached_property
    def matching_values(self) -> tuple[Hashable, ...]:
        """Return `comparable_values`, and a value that only listings with the same words in their names have."""
        return ((self.name_words, self.distinguishing_words), *self.comparable_values)


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
    if shorter >= MIN_NAME_LENGTH and have_similar_names(left, right):
        return SIMILAR_NAME
    return None


def _have_same_core(left: Spelling, right: Spelling) -> bool:
    if left.core and left.core == right.core and not are_rivals(left.generic_words, right.generic_words):
        return True
    return bool(left.cores & right.cores)


def are_rivals(left: frozenset[str], right: frozenset[str]) -> bool:
    """Return whether each name has a generic word that the other lacks. left, right: the generic words of both.

    Such names often belong to two assets: Sun Token, Sun DAO.
    """
    return not (left <= right or right <= left)


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


def have_similar_names(left: Spelling, right: Spelling) -> bool:
    """Return whether two names are nearly equal, regardless of the order of words."""
    if fuzz.ratio(left.joined_name, right.joined_name, score_cutoff=MIN_NAME_RATIO):
        return True
    return bool(fuzz.ratio(left.sorted_name, right.sorted_name, score_cutoff=MIN_NAME_RATIO))
