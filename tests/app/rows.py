"""Insert rows directly, as the pipeline writes them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any

from sqlalchemy import Engine, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from store.tables import (
    OUTCOMES,
    AssetRow,
    Base,
    CheckpointRow,
    DecisionRow,
    HeartbeatRow,
    LatestQuoteRow,
    ListingRow,
    PageRow,
    QuoteRow,
    RawBodyRow,
    RejectRow,
    RunRow,
    SourceRow,
)

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Rows:
    def __init__(self, engine: Engine):
        self.engine = engine

    def listing(
        self, asset: str = "bitcoin", source: str = "coingecko", quote_currency: str = "USD", symbol: str = "BTC"
    ) -> int:
        with self.engine.begin() as connection:
            connection.execute(upsert(SourceRow).values(name=source).on_conflict_do_nothing())
            connection.execute(
                upsert(AssetRow).values(slug=asset, symbol=symbol, name=asset.title()).on_conflict_do_nothing()
            )
            asset_id = connection.scalar(select(AssetRow.id).where(AssetRow.slug == asset))
            listing = insert(ListingRow).values(
                source=source,
                source_asset_id=asset,
                quote_currency=quote_currency,
                symbol=symbol,
                name=asset.title(),
                asset=asset_id,
                method="symbol_and_name",
                confidence=Decimal("0.9"),
            )
            id_ = int(connection.execute(listing.returning(ListingRow.id)).scalar_one())
            decision = {"method": "symbol_and_name", "confidence": Decimal("0.9"), "decided_by": "resolver"}
            connection.execute(insert(DecisionRow).values(listing=id_, asset=asset_id, **decision))
            return id_

    def quote(self, listing: int, observed_at: datetime = NOON, price: str = "1.5", **more: Any) -> None:
        values = {"fetched_at": NOON, "ingested_at": NOON, "run": uuid.UUID(int=1), **more}
        with self.engine.begin() as connection:
            connection.execute(
                insert(QuoteRow).values(listing_id=listing, observed_at=observed_at, price=Decimal(price), **values)
            )
            newest = upsert(LatestQuoteRow).values(listing_id=listing, observed_at=observed_at)
            connection.execute(
                newest.on_conflict_do_update(
                    index_elements=["listing_id"],
                    set_={"observed_at": newest.excluded.observed_at},
                    where=LatestQuoteRow.observed_at < newest.excluded.observed_at,
                )
            )

    def run(self, source: str = "coingecko", status: str = "succeeded", **more: Any) -> uuid.UUID:
        values = {
            "id": uuid.uuid4(),
            "kind": "live",
            "requested_by": "test",
            "requested_at": NOON,
            "started_at": NOON + timedelta(seconds=1),
            "finished_at": NOON + timedelta(seconds=3) if status not in ("queued", "running", "waiting") else None,
            **more,
        }
        with self.engine.begin() as connection:
            connection.execute(upsert(SourceRow).values(name=source).on_conflict_do_nothing())
            connection.execute(insert(RunRow).values(source=source, status=status, **values))
        return uuid.UUID(str(values["id"]))

    def page(
        self,
        run: uuid.UUID,
        seq: int = 0,
        partition: str = "",
        source: str = "coingecko",
        body: bytes = b"[]",
        committed_at: datetime = NOON,
        recorded: Mapping[str, Any] | None = None,
        **counted: int,
    ) -> bytes:
        digest = sha256(body).digest()
        counters = {**dict.fromkeys((*OUTCOMES, "blank"), 0), **counted}
        with self.engine.begin() as connection:
            raw = {"body": b"", "content_type": "application/json", "size": len(body), "received_at": NOON}
            connection.execute(upsert(RawBodyRow).values(source=source, digest=digest, **raw).on_conflict_do_nothing())
            connection.execute(
                insert(PageRow.__table__).values(
                    run=run,
                    partition=partition,
                    seq=seq,
                    source=source,
                    request={},
                    status=200,
                    fetched_at=NOON,
                    committed_at=committed_at,
                    body_digest=digest,
                    fetched=sum(counters[name] for name in OUTCOMES),
                    bytes=len(body),
                    **counters,
                    **(recorded or {}),
                )
            )
        return digest

    def reject(
        self,
        digest: bytes,
        item_index: int = 0,
        source: str = "coingecko",
        item: str = "{}",
        reasons: Sequence[tuple[str, str, str]] = (("price", "no_price", "expected a price, got none"),),
        **more: Any,
    ) -> None:
        """Insert a reject. reasons: the field, code and detail of each reason."""
        reasons_as_json = [dict(zip(("field", "code", "detail"), reason, strict=True)) for reason in reasons]
        values = {
            "source": source,
            "digest": digest,
            "item_index": item_index,
            "item": item,
            "rejected_at": NOON,
            **more,
        }
        with self.engine.begin() as connection:
            connection.execute(insert(RejectRow).values(reasons=reasons_as_json, **values))

    def add(self, row: Base) -> None:
        """Insert a row with exactly these values."""
        with Session(self.engine) as session, session.begin():
            session.add(row)

    def checkpoint(self, source: str = "coingecko", partition: str = "", **more: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(upsert(SourceRow).values(name=source).on_conflict_do_nothing())
            connection.execute(insert(CheckpointRow).values(source=source, partition=partition, **more))

    def breaker(self, source: str = "coingecko", **state: Any) -> None:
        """Insert a source with the state of its circuit breaker: failures, opened_at and probe_until."""
        with self.engine.begin() as connection:
            values = {f"breaker_{name}": value for name, value in state.items()}
            connection.execute(insert(SourceRow).values(name=source, **values))

    def deleted(self, source: str = "coingecko", *, quotes: int = 0, bodies: int = 0) -> None:
        """Insert a source with the numbers of quotes and bodies that retention deleted."""
        with self.engine.begin() as connection:
            connection.execute(insert(SourceRow).values(name=source, quotes_deleted=quotes, bodies_deleted=bodies))

    def heartbeat(self, part: str, beaten_at: datetime) -> None:
        with self.engine.begin() as connection:
            connection.execute(insert(HeartbeatRow).values(part=part, beaten_at=beaten_at))
