"""Collect the decisions of other transactions after a plan was made without a lock, and before it is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Set

from sqlalchemy import Connection, text

from tasks.identity.decisions import ListingName
from tasks.identity.similarity import Spelling


class LaterDecisions:
    """The decisions made after a plan: their listings and assets, and the names and slugs of both.

    values: by the key of a symbol, the values that similar listings have in common (`Spelling.matching_values`).

    Create this before the plan reads anything. Each `read` adds the decisions since the previous `read`, so that the
    plan can be written in many short transactions. Only decisions that are made under `decision_lock` are certain to be
    read, since their ids follow the order of their commits.
    """

    def __init__(self, connection: Connection):
        self._newest = _newest_decision(connection)
        self.listing_ids: set[int] = set()
        self.assets: set[int] = set()
        self.slugs: set[str] = set()
        self.names: set[ListingName] = set()
        self.values: dict[str, set[Hashable]] = defaultdict(set)

    @property
    def keys(self) -> Set[str]:
        """Return the keys of the symbols that the decisions concern."""
        return self.values.keys()

    def read(self, connection: Connection) -> None:
        """Add the decisions since the last call. Call this under `decision_lock`."""
        for row in connection.execute(_DECISIONS, {"newest": self._newest}):
            self._newest = max(self._newest, row.id)
            self.listing_ids.add(row.listing)
            self.assets.add(row.asset)
            self.slugs.add(row.slug)
            self.names.add((row.source, row.source_asset_id))
            spelling = Spelling(row.symbol, row.name, row.source_asset_id)
            if spelling.key:
                self.values[spelling.key].update(spelling.matching_values)

    def skip_own(self, connection: Connection) -> None:
        """Skip the decisions that this transaction made since the last `read`. Call this before its commit."""
        self._newest = _newest_decision(connection)


def _newest_decision(connection: Connection) -> int:
    return connection.scalar(text("SELECT coalesce(max(id), 0) FROM decisions")) or 0


_DECISIONS = text("""
    SELECT decisions.id, listing, listings.asset, slug, source, source_asset_id, listings.symbol,
           listings.name
      FROM decisions JOIN listings ON listings.id = listing JOIN assets ON assets.id = listings.asset
     WHERE decisions.id > :newest
""")
