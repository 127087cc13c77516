"""Choose free slugs for new assets. A slug is the unique name of an asset in URLs."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

from sqlalchemy import Connection, text

from sources.record_columns import ListingFields

FIRST_PROBED_NUMBERS, MAX_PROBED_NUMBERS = 8, 4096
"""The number of numbered slugs that the first query for a name looks up, and the most that one query looks up. Each
query looks up twice as many as the one before, since thousands of listings can have one name."""


UNSAFE_CHARACTERS = re.compile(r"[^a-z0-9]+")
"""The characters of a name, in lower case, that its slug lacks."""


class Slugs:
    """Choose free slugs. Bitcoin (BTC2) gets the first free one of `bitcoin`, `bitcoin-btc2`, `bitcoin-btc2-2`, …

    listings: the listings that need slugs. One query looks up the plain slugs of all.
    reserved: slugs that are not free, although no asset has them yet.
    """

    def __init__(self, connection: Connection, listings: Iterable[ListingFields], reserved: Iterable[str] = ()):
        self._connection = connection
        self._taken = self._existing({slug for listing in listings for slug in self._plain_slugs(listing)})
        self._taken.update(reserved)
        # By slug without a number: the next number. All lower numbers are taken.
        self._next_numbers: dict[str, int] = defaultdict(lambda: 2)
        # By slug without a number: the first number that was not looked up yet.
        self._unprobed: dict[str, int] = defaultdict(lambda: 2)

    def reserve(self, listing: ListingFields) -> str:
        """Return the first free slug for a listing. This object does not return it again."""
        slug = next(slug for slug in self._candidates(listing) if slug not in self._taken)
        self._taken.add(slug)
        return slug

    def _candidates(self, listing: ListingFields) -> Iterator[str]:
        plain, with_symbol = self._plain_slugs(listing)
        yield from (plain, with_symbol)
        while True:
            number = self._next_numbers[with_symbol]
            if number == self._unprobed[with_symbol]:
                self._probe(with_symbol)
            self._next_numbers[with_symbol] = number + 1
            yield f"{with_symbol}-{number}"

    def _probe(self, with_symbol: str) -> None:
        """Look up the next numbers of a slug, as many as were already looked up."""
        first = self._unprobed[with_symbol]
        count = min(max(first, FIRST_PROBED_NUMBERS), MAX_PROBED_NUMBERS)
        self._taken |= self._existing([f"{with_symbol}-{number}" for number in range(first, first + count)])
        self._unprobed[with_symbol] = first + count

    def _plain_slugs(self, listing: ListingFields) -> tuple[str, str]:
        name = _slugify(listing.name) or _slugify(listing.source_asset_id) or "asset"
        return name, f"{name}-{_slugify(listing.symbol)}".rstrip("-")

    def _existing(self, slugs: Collection[str]) -> set[str]:
        existing = self._connection.scalars(
            text("SELECT slug FROM assets WHERE slug = ANY(:slugs)"), {"slugs": list(slugs)}
        )
        return set(existing)


def _slugify(name: str) -> str:
    plain = name if name.isascii() else unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return UNSAFE_CHARACTERS.sub("-", plain.lower()).strip("-")
