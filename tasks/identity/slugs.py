"""The slugs of assets: what a URL calls them by, which no two have."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from itertools import count

from sqlalchemy import Connection, text

from sources.record_columns import ListingFields


class Slugs:
    """Slugs that no asset has: `bitcoin`; where that is taken `bitcoin-btc2`; then `bitcoin-btc2-2`, `-3`, …"""

    def __init__(self, connection: Connection, listed: Iterable[ListingFields]):
        self._connection = connection
        self._taken = self._among({slug for one in listed for slug in self._plain(one)})

    def free(self, one: ListingFields) -> str:
        """The first that is free; it is taken from now on."""
        slug = next(slug for slug in self._candidates(one) if slug not in self._taken)
        self._taken.add(slug)
        return slug

    def _candidates(self, one: ListingFields) -> Iterator[str]:
        yield from self._plain(one)
        with_symbol = self._plain(one)[-1]
        for number in count(2):
            slug = f"{with_symbol}-{number}"
            self._taken |= self._among({slug})
            yield slug

    def _plain(self, one: ListingFields) -> tuple[str, str]:
        name = _slug(one.name) or _slug(one.source_asset_id) or "asset"
        return name, f"{name}-{_slug(one.symbol)}".rstrip("-")

    def _among(self, slugs: Collection[str]) -> set[str]:
        taken = self._connection.scalars(
            text("SELECT slug FROM assets WHERE slug = ANY(:slugs)"), {"slugs": list(slugs)}
        )
        return set(taken)


def _slug(words: str) -> str:
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
