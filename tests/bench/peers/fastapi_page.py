"""Serve the page of `/data?limit=100` with FastAPI, asyncpg and orjson: one keyset query, the rows as dicts.

It omits the other features of the API: filters, an estimate of the total, and the watermark.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

CONNECTIONS = 8

QUERY = """
    SELECT l.source, a.slug AS asset, l.symbol, l.name, l.source_asset_id, l.quote_currency, q.observed_at, q.price,
           q.open, q.high, q.low, q.volume_24h, q.market_cap, q.change_24h_pct, q.rank, q.circulating_supply,
           q.total_supply, q.max_supply, q.fetched_at, q.ingested_at, q.run, q.listing_id
      FROM quotes AS q JOIN listings AS l ON l.id = q.listing_id JOIN assets AS a ON a.id = l.asset
     {where}
     ORDER BY q.observed_at DESC, q.listing_id DESC LIMIT $1
"""
FIRST_PAGE, NEXT_PAGE = QUERY.format(where=""), QUERY.format(where="WHERE (q.observed_at, q.listing_id) < ($2, $3)")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/data")
async def list_quotes(request: Request, limit: int = 100, cursor: str | None = None) -> Response:
    if cursor is None:
        records = await request.app.state.pool.fetch(FIRST_PAGE, limit + 1)
    else:
        at, listing = orjson.loads(urlsafe_b64decode(cursor))
        records = await request.app.state.pool.fetch(NEXT_PAGE, limit + 1, datetime.fromisoformat(at), listing)
    rows = [dict(row) for row in records[:limit]]
    keys = [(row["observed_at"], row.pop("listing_id")) for row in rows]
    next_cursor = urlsafe_b64encode(orjson.dumps(keys[-1])).decode() if len(records) > limit else None
    pagination = {"limit": limit, "next_cursor": next_cursor, "has_more": next_cursor is not None}
    body = orjson.dumps({"data": rows, "pagination": pagination}, _plain, orjson.OPT_UTC_Z)
    return Response(body, media_type="application/json")


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value)


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_page:app",
        app_dir=str(Path(__file__).parent),
        port=int(os.environ["WEB_PORT"]),
        workers=int(os.environ["WEB_WORKERS"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
    )
