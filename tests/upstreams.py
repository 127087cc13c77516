"""Serve an upstream in CoinGecko's format that can misbehave, and build sources that need no network."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from sources.contract import Http, Page, Source, Window
from sources.http.json_body import json_list

OBSERVED = datetime(2026, 1, 1, tzinfo=UTC)
FETCHED = datetime(2026, 2, 1, tzinfo=UTC)


@dataclass
class Markets:
    """A CoinGecko server that returns `coins` on /coins/markets.

    cap: the most coins of a page, whatever is requested.
    states: the headers `total` and `per-page` are sent.
    drop: by page number, how many of its coins are missing.
    before: called with the page's number before each response. If it returns a response, that replaces the page.
    requested_pages: the numbers of the requested pages.
    headers: the headers of each request.
    """

    server: HTTPServer
    coins: list[dict[str, Any]]
    before: Callable[[int], Response | None] = lambda _: None
    cap: int = 250
    states: bool = True
    drop: Mapping[int, int] = field(default_factory=dict)
    requested_pages: list[int] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server.expect_request("/coins/markets").respond_with_handler(self._respond)

    @property
    def url(self) -> str:
        return self.server.url_for("").rstrip("/")

    def _respond(self, request: Request) -> Response:
        number, size = int(request.args["page"]), min(self.cap, int(request.args["per_page"]))
        self.requested_pages.append(number)
        self.headers.append(dict(request.headers))
        stated = {"total": str(len(self.coins)), "per-page": str(size)} if self.states else {}
        page = self.coins[(number - 1) * size : number * size][self.drop.get(number, 0) :]
        return self.before(number) or Response(json.dumps(page), content_type="application/json", headers=stated)


def coins(count: int, *, price: str = "1.5") -> list[dict[str, Any]]:
    """Return `count` coins in CoinGecko's format."""
    return [
        {
            "id": f"coin-{number}",
            "symbol": f"c{number}",
            "name": f"Coin {number}",
            "current_price": float(price) + number,
            "market_cap": 1000 * number,
            "market_cap_rank": number + 1,
            "last_updated": "2026-01-01T00:00:00.000Z",
        }
        for number in range(count)
    ]


class Gate:
    """A gate where a thread waits until a test opens it. `reached` is set when the thread arrives."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        self.open.wait(30)


def item(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a normalized item. A canned source's `parse` yields it unchanged."""
    return {
        "source_asset_id": f"coin-{number}",
        "symbol": f"C{number}",
        "name": f"Coin {number}",
        "quote_currency": "USD",
        "observed_at": OBSERVED.isoformat(),
        "price": "1.5",
        **changes,
    }


def canned(
    *pages: Sequence[Any],
    name: str = "canned",
    fetched_at: datetime = FETCHED,
    before: Callable[[int], None] = lambda _: None,
    partitions: Iterable[str] = ("",),
    **changes: Any,
) -> Source:
    """Return a source whose pages are lists of normalized items.

    before: called with a page's number before that page is fetched.
    """

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        first = window.cursor["next"] if window.cursor and window.cursor["run"] == window.run else 0
        for number in range(first, len(pages)):
            before(number)
            body = json.dumps(pages[number]).encode()
            cursor = {"run": window.run, "next": number + 1}
            yield Page(body, "application/json", {"page": number, "file": window.partition}, fetched_at, cursor)

    return Source(
        name=name,
        every=timedelta(hours=1),
        fetch=fetch,
        parse=changes.pop("parse", lambda page: json_list(page.body)),
        normalize=changes.pop("normalize", lambda record: record),
        partitions=lambda: partitions,
        **changes,
    )
