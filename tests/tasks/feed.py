"""Serve pages of items on loopback, with errors on demand, and declare a source that reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from sources.contract import Http, Page, Source, Upstream, Window
from sources.http.json_body import json_list


@dataclass
class Feed:
    """An upstream that serves `pages` on /prices?page=1, …, and empty pages after them.

    etags:    send an ETag, and respond to conditional requests with 304.
    before:   called with the page number before each response; may return another response to send.
    requests: the requests so far.
    """

    server: HTTPServer
    pages: Sequence[Sequence[Any]]
    etags: bool = True
    before: Callable[[int], Response | None] = lambda _: None
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server.expect_request("/prices").respond_with_handler(self._respond)

    @property
    def url(self) -> str:
        return self.server.url_for("").rstrip("/")

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of the requested pages."""
        return [int(request.args["page"]) for request in self.requests]

    @property
    def conditions(self) -> list[str | None]:
        """Return the If-None-Match header of each request."""
        return [request.headers.get("If-None-Match") for request in self.requests]

    def _respond(self, request: Request) -> Response:
        self.requests.append(request)
        number = int(request.args["page"])
        return self.before(number) or self.page(number, request)

    def page(self, number: int, request: Request) -> Response:
        """Return the page with this number, or an empty one."""
        items = self.pages[number - 1] if number <= len(self.pages) else []
        response = Response(json.dumps(items), content_type="application/json")
        if self.etags:
            response.add_etag()
            response.make_conditional(request)
        return response

    def source(self, **changes: Any) -> Source:
        return feed_source(self.url, **changes)


def fetch(window: Window, http: Http) -> Iterator[Page]:
    """Fetch pages until the first empty page. Only the run that started a snapshot resumes it."""
    resumed = window.cursor and window.cursor["run"] == window.run
    number = window.cursor["next"] if window.cursor and resumed else 1
    while number:
        reply = http.get("/prices", {"page": number})
        number = number + 1 if json_list(reply.body) else None
        yield Page.of(reply, {"run": window.run, "next": number})


def feed_source(url: str, **changes: Any) -> Source:
    """Return a source that reads normalized items from `url`. It sends a key if FEED_API_KEY is set."""
    fields: dict[str, Any] = {
        "name": "feed",
        "every": timedelta(hours=1),
        "fetch": fetch,
        "parse": lambda page: json_list(page.body),
        "normalize": lambda item: item,
        "upstreams": {"open": Upstream(url), "keyed": Upstream(url, key_header="X-Key")},
    }
    return Source(**{**fields, **changes})
