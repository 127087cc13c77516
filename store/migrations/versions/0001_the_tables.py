"""create the tables"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "assets",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("assets_pkey")),
        sa.UniqueConstraint("slug", name=op.f("assets_slug_key")),
    )
    op.create_index("assets_upper_symbol_idx", "assets", [sa.literal_column("upper(symbol)")], unique=False)
    op.create_table(
        "heartbeats",
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("beaten_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("part", name=op.f("heartbeats_pkey")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("answer", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("idempotency_keys_pkey")),
    )
    op.create_index(op.f("idempotency_keys_expires_at_idx"), "idempotency_keys", ["expires_at"], unique=False)
    op.create_table(
        "latest_quotes",
        sa.Column("listing_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("listing_id", name=op.f("latest_quotes_pkey")),
    )
    op.create_table(
        "quotes",
        sa.Column("listing_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.Column("open", sa.Numeric(), nullable=True),
        sa.Column("high", sa.Numeric(), nullable=True),
        sa.Column("low", sa.Numeric(), nullable=True),
        sa.Column("volume_24h", sa.Numeric(), nullable=True),
        sa.Column("market_cap", sa.Numeric(), nullable=True),
        sa.Column("change_24h_pct", sa.Numeric(), nullable=True),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("circulating_supply", sa.Numeric(), nullable=True),
        sa.Column("total_supply", sa.Numeric(), nullable=True),
        sa.Column("max_supply", sa.Numeric(), nullable=True),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ingested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("listing_id", "observed_at", name=op.f("quotes_pkey")),
    )
    op.create_index(op.f("quotes_ingested_at_idx"), "quotes", ["ingested_at"], unique=False, postgresql_using="brin")
    op.create_index(op.f("quotes_observed_at_listing_id_idx"), "quotes", ["observed_at", "listing_id"], unique=False)
    op.create_table(
        "rejects",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("item_index", sa.Integer(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="quarantined", nullable=False),
        sa.Column("rejected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("replayed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('quarantined', 'replayed')", name=op.f("rejects_state_check")),
        sa.PrimaryKeyConstraint("source", "digest", "item_index", name=op.f("rejects_pkey")),
    )
    op.create_table(
        "sources",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_reason", sa.Text(), nullable=True),
        sa.Column("budget_month", sa.Date(), nullable=True),
        sa.Column("budget_used", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("sources_pkey")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False),
        sa.Column("cursor", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_run", sa.Uuid(), nullable=True),
        sa.Column("lease_token", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_expires", sa.DateTime(timezone=True), nullable=True),
        sa.Column("done_by", sa.Uuid(), nullable=True),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["source"], ["sources.name"], name=op.f("checkpoints_source_fkey")),
        sa.PrimaryKeyConstraint("source", "partition", name=op.f("checkpoints_pkey")),
    )
    op.create_index(op.f("checkpoints_lease_run_idx"), "checkpoints", ["lease_run"], unique=False)
    op.create_table(
        "listings",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_asset_id", sa.Text(), nullable=False),
        sa.Column("quote_currency", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("asset", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Numeric(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["asset"], ["assets.id"], name=op.f("listings_asset_fkey")),
        sa.ForeignKeyConstraint(["source"], ["sources.name"], name=op.f("listings_source_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("listings_pkey")),
        sa.UniqueConstraint(
            "source",
            "source_asset_id",
            "quote_currency",
            name=op.f("listings_source_source_asset_id_quote_currency_key"),
        ),
    )
    op.create_index(op.f("listings_asset_idx"), "listings", ["asset"], unique=False)
    op.create_index("listings_upper_symbol_idx", "listings", [sa.literal_column("upper(symbol)")], unique=False)
    op.create_table(
        "raw_bodies",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["source"], ["sources.name"], name=op.f("raw_bodies_source_fkey")),
        sa.PrimaryKeyConstraint("source", "digest", name=op.f("raw_bodies_pkey")),
    )
    # Bodies are compressed already, so Postgres need not compress them again.
    op.execute("ALTER TABLE raw_bodies ALTER COLUMN body SET STORAGE EXTERNAL")
    op.create_table(
        "runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("parameters", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("scheduled_for", sa.DateTime(timezone=True), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column(
            "requested_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("claims", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("waits", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("waiting_reason", sa.Text(), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("publish_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('live', 'backfill', 'replay')", name=op.f("runs_kind_check")),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'waiting', 'succeeded', 'partial', 'failed', 'cancelled')",
            name=op.f("runs_status_check"),
        ),
        sa.ForeignKeyConstraint(["source"], ["sources.name"], name=op.f("runs_source_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("runs_pkey")),
        sa.UniqueConstraint("source", "scheduled_for", name=op.f("runs_source_scheduled_for_key")),
    )
    op.create_index(
        "runs_one_live_run_per_source",
        "runs",
        ["source"],
        unique=True,
        postgresql_where=sa.text("kind = 'live' AND status IN ('queued', 'running', 'waiting')"),
    )
    op.create_index(op.f("runs_requested_at_id_idx"), "runs", ["requested_at", "id"], unique=False)
    op.create_index(op.f("runs_source_requested_at_idx"), "runs", ["source", "requested_at"], unique=False)
    op.create_index(
        "runs_unfinished",
        "runs",
        ["status"],
        unique=False,
        postgresql_where=sa.text("status IN ('queued', 'running', 'waiting')"),
    )
    op.create_table(
        "pages",
        sa.Column("run", sa.Uuid(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("body_digest", sa.LargeBinary(), nullable=False),
        sa.Column("cursor", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("fetched", sa.Integer(), nullable=False),
        sa.Column("inserted", sa.Integer(), nullable=False),
        sa.Column("updated", sa.Integer(), nullable=False),
        sa.Column("unchanged", sa.Integer(), nullable=False),
        sa.Column("deduplicated", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("blank", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "fetched = inserted + updated + unchanged + deduplicated + rejected", name=op.f("pages_conservation_check")
        ),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("pages_run_fkey")),
        sa.ForeignKeyConstraint(
            ["source", "body_digest"],
            ["raw_bodies.source", "raw_bodies.digest"],
            name=op.f("pages_source_body_digest_fkey"),
        ),
        sa.PrimaryKeyConstraint("run", "partition", "seq", name=op.f("pages_pkey")),
    )
    op.create_index(op.f("pages_committed_at_idx"), "pages", ["committed_at"], unique=False)
    op.create_index(op.f("pages_source_body_digest_idx"), "pages", ["source", "body_digest"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("pages_source_body_digest_idx"), table_name="pages")
    op.drop_index(op.f("pages_committed_at_idx"), table_name="pages")
    op.drop_table("pages")
    op.drop_index(
        "runs_unfinished", table_name="runs", postgresql_where=sa.text("status IN ('queued', 'running', 'waiting')")
    )
    op.drop_index(op.f("runs_source_requested_at_idx"), table_name="runs")
    op.drop_index(op.f("runs_requested_at_id_idx"), table_name="runs")
    op.drop_index(
        "runs_one_live_run_per_source",
        table_name="runs",
        postgresql_where=sa.text("kind = 'live' AND status IN ('queued', 'running', 'waiting')"),
    )
    op.drop_table("runs")
    op.drop_table("raw_bodies")
    op.drop_index("listings_upper_symbol_idx", table_name="listings")
    op.drop_index(op.f("listings_asset_idx"), table_name="listings")
    op.drop_table("listings")
    op.drop_index(op.f("checkpoints_lease_run_idx"), table_name="checkpoints")
    op.drop_table("checkpoints")
    op.drop_table("sources")
    op.drop_table("rejects")
    op.drop_index(op.f("quotes_observed_at_listing_id_idx"), table_name="quotes")
    op.drop_index(op.f("quotes_ingested_at_idx"), table_name="quotes", postgresql_using="brin")
    op.drop_table("quotes")
    op.drop_table("latest_quotes")
    op.drop_index(op.f("idempotency_keys_expires_at_idx"), table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_table("heartbeats")
    op.drop_index("assets_upper_symbol_idx", table_name="assets")
    op.drop_table("assets")
