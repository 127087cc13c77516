"""Serve price histories on loopback, in the formats of CoinGecko and CoinPaprika."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

DAY = timedelta(days=1)


@dataclass
class Charts:
    """An upstream that serves one price a day, as CoinGecko's market_chart/range and CoinPaprika's historical ticks.

    before: called with the request number before each response; may return another response to send.
    """

    server: HTTPServer
    requests: list[dict[str, str]] = field(default_factory=list)
    before: Callable[[int], Response | None] = lambda _: None
    price: float = 100.0

    def __post_init__(self) -> None:
        for coin in ("bitcoin", "ether"):
            self.server.expect_request(f"/coins/{coin}/market_chart/range").respond_with_handler(self._chart)
        self.server.expect_request("/tickers/btc-bitcoin/historical").respond_with_handler(self._ticks)
        self.server.expect_request("/coins/markets").respond_with_json([])

    @property
    def url(self) -> str:
        return self.server.url_for("").rstrip("/")

    def _days(self, request: Request, since: str, until: str) -> list[datetime]:
        self.requests.append({"path": request.path, **request.args})
        first, last = (datetime.fromtimestamp(int(request.args[name]), UTC) for name in (since, until))
        day = first.replace(hour=0, minute=0, second=0)
        days = [day + number * DAY for number in range((last - day).days + 1)]
        return [day for day in days if first <= day <= last]

    def _chart(self, request: Request) -> Response:
        days = self._days(request, "from", "to")
        pairs = [[int(day.timestamp() * 1000), self.price + number] for number, day in enumerate(days)]
        chart = {"prices": pairs, "market_caps": pairs[:-1], "total_volumes": pairs}
        return self.before(len(self.requests)) or Response(json.dumps(chart), content_type="application/json")

    def _ticks(self, request: Request) -> Response:
        days = self._days(request, "start", "end")
        ticks = [
            {"timestamp": f"{day:%Y-%m-%dT%H:%M:%SZ}", "price": 7.5, "volume_24h": 10, "market_cap": 0} for day in days
        ]
        return self.before(len(self.requests)) or Response(json.dumps(ticks), content_type="application/json")
