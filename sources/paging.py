"""Follow numbered pages to their end.

A short page is not the last page: upstreams drop single items, or return fewer items per page than requested.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from sources.pages import Response

TOTAL, PER_PAGE = "total", "per-page"
"""Headers in which an upstream states the number of all items, and the number of items per page."""


@dataclass(frozen=True)
class NumberedPages:
    """How an upstream's pages are requested: `size` items per page, and at most `pages` pages of this size."""

    size: int
    pages: int

    def page_size(self, response: Response, most_items: int) -> int:
        """Return how many items a page really has. most_items: the most items that a page of the list had so far."""
        return min(self.size, _number(response, PER_PAGE) or most_items or self.size)

    def is_last(self, number: int, count: int, response: Response, most_items: int) -> bool:
        """Return whether the page with this number, from 1, is the last one to request.

        The list ends with an empty page, or after the total that the upstream states. If the upstream returns smaller
        pages, more of them are requested, so that as many items are read. count: the items of this page.
        """
        if not count:
            return True
        size = self.page_size(response, most_items)
        total = _number(response, TOTAL)
        last = ceil(self.size * self.pages / size)
        return number >= (last if total is None else min(last, ceil(total / size)))

    def notice(self, number: int, count: int, response: Response, previous_items: int | None) -> str | None:
        """Return what is unusual about a page, or None. previous_items: the items of the page before it."""
        stated = _number(response, PER_PAGE)
        if stated is not None and stated < self.size:
            return f"requested {self.size} items per page, but the upstream returns {stated} per page"
        if count and previous_items is not None and previous_items < self.size:
            return f"page {number - 1} has {previous_items} items instead of {self.size}, but is not the last page"
        return None


def _number(response: Response, header: str) -> int | None:
    """Return the whole number above 0 in a header, or None."""
    text = response.headers.get(header, "")
    return int(text) if text.isascii() and text.isdigit() and int(text[:18]) > 0 else None
