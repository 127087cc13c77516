"""Call a source's `fetch`, and turn each of its failures into an error that names the line."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from sources.contract import Http, Page, Source, Window
from sources.faults import WrongResult, name_type
from tasks.pipeline.source_errors import own_code


def fetch_pages(source: Source, window: Window, http: Http) -> Generator[Page]:
    """Yield the pages that `fetch` yields. Raise TerminalError if it fails, or yields anything else."""
    with own_code(source):
        pages = source.fetch(window, http)
        if not isinstance(pages, Iterator):
            raise WrongResult("fetch", f"must yield pages, but returned {name_type(pages)}; replace return with yield")
    try:
        while True:
            with own_code(source):
                page = _next_page(pages)
            if page is None:
                return
            yield page
    finally:
        if isinstance(pages, Generator):
            pages.close()


def _next_page(pages: Iterator[Any]) -> Page | None:
    try:
        page = next(pages)
    except StopIteration as end:
        if end.value is not None:
            lost = f"yields pages and also returned {name_type(end.value)}, which would be lost; yield it"
            raise WrongResult("fetch", lost) from None
        return None
    if not isinstance(page, Page):
        expected = "must yield pages, such as Page.of(response, cursor={…})"
        raise WrongResult("fetch", f"{expected}, but yielded {name_type(page)}")
    return page
