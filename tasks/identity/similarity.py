"""How alike two listings of different sources are: by what their names and ids say, where the symbol is the same. Pure.

Never by the symbol: thousands of coins share theirs.
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

Place = TypeVar("Place", bound=Hashable)
Asset = TypeVar("Asset", bound=Hashable)

KEY_LENGTH = 10
"""So many characters of a symbol count: some sources cut theirs off there."""


def words(text: str) -> tuple[str, ...]:
    """The words of a text, without case, width and accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return tuple(re.findall(r"[^\W_]+", "".join(char for char in plain if not unicodedata.combining(char))))


GENERIC = frozenset(
    words(
        "app chain coin coins com crypto currency dao defi ecosystem exchange fi finance foundation gov governance io"
        " labs money network org platform project protocol system the token tokens utility"
    )
)
"""Words that one source has in a name and another has not: "Highstreet Token" is "Highstreet"."""

TELLING_APART = frozenset(
    words(
        "2 3 baby bep2 bep20 bridge bridged bsc cash classic erc20 gold heco inverse long mini new oec old peg pegged"
        " pos short staked synthetic v1 v2 v3 wormhole wrapped"
    )
)
"""Words that make another thing of it. So does whatever stands in brackets: "Acme (Wormhole)" is not Acme."""

IN_BRACKETS = re.compile(r"[(\[{]([^)\]}]*)[)\]}]")

CURRENCIES = frozenset(
    words(
        "aud brl cad chf cny dollar eur euro gbp hkd idr inr jpy krw mxn nzd php pound rub sgd thb try usd vnd yen zar"
    )
)
QUOTED_IN = CURRENCIES | frozenset(words("bnb btc busd dai eth fdusd tusd usdc usdt xbt"))
"""What stands behind a symbol in the id of a pair, UNI/USDT, and says nothing of what that is."""

SAYS_NOTHING = QUOTED_IN | {""}
NO_NAMES = GENERIC | TELLING_APART | QUOTED_IN

RARE = 4
"""So many assets may have a word in their names that still tells of one thing."""

SIMILAR = 92.0
LONG_ENOUGH = 8
"""Of shorter names one letter is too much: Lemon is not LeMoon."""


class Similarity(NamedTuple):
    """What is alike beside the symbol, and how surely they are the same thing: 0 to 1."""

    method: str
    confidence: float


NAME = Similarity("symbol_and_name", 0.95)
JOINED_NAME = Similarity("symbol_and_name", 0.94)
ID = Similarity("symbol_and_id", 0.93)
CORE = Similarity("symbol_and_core_of_name", 0.92)
SIMILAR_NAME = Similarity("symbol_and_similar_name", 0.9)
PART_OF_NAME = Similarity("symbol_and_part_of_name", 0.85)
RARE_WORD = Similarity("symbol_and_rare_word", 0.8)


@dataclass(frozen=True)
class Spelling:
    """A listing as far as it says what it is of."""

    symbol: str
    name: str
    source_asset_id: str

    @property
    def told(self) -> dict[str, str]:
        """What is kept of it as evidence."""
        return {"symbol": self.symbol, "name": self.name, "source_asset_id": self.source_asset_id}

    @cached_property
    def key(self) -> str:
        """Of the symbol; empty if it says nothing."""
        return "".join(words(self.symbol))[:KEY_LENGTH]

    @cached_property
    def _plain_name(self) -> str:
        """The name, without the symbol that some repeat behind it."""
        return IN_BRACKETS.sub(lambda it: "" if "".join(words(it[1])) == self.key else it[0], self.name)

    @cached_property
    def name_words(self) -> tuple[str, ...]:
        return words(self._plain_name)

    @cached_property
    def joined(self) -> str:
        """The name without case, accents, spaces and punctuation; empty if nothing else is in it."""
        return "".join(self.name_words)

    @cached_property
    def id_words(self) -> tuple[str, ...]:
        """Of the id, without the symbol that some put first; none if it has no name in it.

        Many an id keeps the name of before a renaming.
        """
        found = words(self.source_asset_id)
        if not any(self._may_be_a_name(word) for word in found):
            return ()
        return found[1:] if found[0] == self.key else found

    def _may_be_a_name(self, word: str) -> bool:
        return not (word in NO_NAMES or word.isdigit() or word.removeprefix(self.key) in SAYS_NOTHING)

    @cached_property
    def telling_apart(self) -> frozenset[str]:
        in_brackets = words(" ".join(IN_BRACKETS.findall(self._plain_name)))
        return TELLING_APART.intersection(self.name_words).union(in_brackets)

    @cached_property
    def generic(self) -> frozenset[str]:
        return GENERIC.intersection(self.name_words)

    @cached_property
    def core(self) -> str:
        return _without_generic(self.name_words)

    @cached_property
    def names(self) -> frozenset[str]:
        """What it is called, by its name and by its id; not what only repeats the symbol."""
        return frozenset({self.joined, "".join(self.id_words)} - {"", self.key})

    @cached_property
    def cores(self) -> frozenset[str]:
        return frozenset(
            core for core in (self.core, _without_generic(self.id_words)) if core != self.key and len(core) > len("abc")
        )


def _without_generic(those: Iterable[str]) -> str:
    return "".join(word for word in those if word not in GENERIC)


def similarity(one: Spelling, other: Spelling) -> Similarity | None:
    """What makes two listings, of one symbol and of different sources, the same thing; None if nothing does."""
    if one.telling_apart != other.telling_apart:
        return None
    if one.joined and one.joined == other.joined:
        return NAME if one.name_words == other.name_words else JOINED_NAME
    if one.names & other.names:
        return ID
    if one.core and one.core == other.core and not (one.generic - other.generic and other.generic - one.generic):
        return CORE  # two that differ in their generic words are often two: Sun Token, Sun DAO
    if one.cores & other.cores:
        return CORE
    if min(len(one.joined), len(other.joined)) >= LONG_ENOUGH and _similarity(one, other) >= SIMILAR:
        return SIMILAR_NAME
    return None


def weak_similarity(one: Spelling, other: Spelling, common: Mapping[str, int]) -> Similarity | None:
    """What two have in common that is not enough, unless no other has their symbol either.

    common: how many assets have each word in their names, of all that are listed.
    """
    if one.telling_apart != other.telling_apart:
        return None
    mine, theirs = (frozenset(it.name_words) - GENERIC for it in (one, other))
    shared = {word for word in mine & theirs if word != one.key and not word.isdigit()}
    if shared and (mine <= theirs or theirs <= mine):
        return PART_OF_NAME
    if any(common.get(word, 0) <= RARE for word in shared - CURRENCIES):
        return RARE_WORD
    return None


def _similarity(one: Spelling, other: Spelling) -> float:
    """0 to 100; the order of the words does not matter."""
    in_order = fuzz.ratio(one.joined, other.joined)
    return max(in_order, fuzz.ratio(" ".join(sorted(one.name_words)), " ".join(sorted(other.name_words))))


class Match(NamedTuple, Generic[Asset]):
    """The asset that a listing is of, what is alike, and the asset's listing that it is like."""

    asset: Asset
    alike: Similarity
    like: Spelling


def match(those: Mapping[Place, Spelling], assets: Mapping[Asset, Sequence[Spelling]]) -> dict[Place, Match[Asset]]:
    """The asset of each listing, of one source, that is surely enough one of these, which that source does not list.

    The surest come first, and nothing is given twice. Where two are as good as each other, it is in doubt which is
    meant, and so it is neither of them.
    """
    by_confidence: dict[float, list[tuple[Place, Match[Asset]]]] = defaultdict(list)
    for place, one in _pairs(those, assets):
        by_confidence[one.alike.confidence].append((place, one))
    found: dict[Place, Match[Asset]] = {}
    gone: set[Place] = set()
    taken: set[Asset] = set()
    for confidence in sorted(by_confidence, reverse=True):
        level = [
            (place, one) for place, one in by_confidence[confidence] if place not in gone and one.asset not in taken
        ]
        places, wanted = Counter(place for place, _ in level), Counter(one.asset for _, one in level)
        found |= {place: one for place, one in level if places[place] == wanted[one.asset] == 1}
        gone.update(places)
        taken.update(wanted)
    return found


def _pairs(
    those: Mapping[Place, Spelling], assets: Mapping[Asset, Sequence[Spelling]]
) -> Iterator[tuple[Place, Match[Asset]]]:
    by_key: dict[str, list[tuple[Asset, Spelling]]] = defaultdict(list)
    for asset, spellings in assets.items():
        for spelling in spellings:
            by_key[spelling.key].append((asset, spelling))
    for place, spelling in those.items():
        best: dict[Asset, Match[Asset]] = {}
        for asset, other in by_key[spelling.key] if spelling.key else ():
            alike = similarity(spelling, other)
            if alike and (asset not in best or alike.confidence > best[asset].alike.confidence):
                best[asset] = Match(asset, alike, other)
        for found in best.values():
            yield place, found
