"""index stored pages by time and rejects by reason; allow one replay per source at a time"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

UNFINISHED = "status IN ('queued', 'running', 'waiting')"


def upgrade() -> None:
    op.create_index(
        "runs_one_of_a_kind_per_source",
        "runs",
        ["source", "kind"],
        unique=True,
        postgresql_where=sa.text(f"kind IN ('live', 'replay') AND {UNFINISHED}"),
    )
    op.drop_index("runs_one_live_run_per_source", "runs")
    op.create_index(op.f("pages_source_committed_at_idx"), "pages", ["source", "committed_at"])
    op.create_index(
        op.f("rejects_rejected_at_source_digest_item_index_idx"),
        "rejects",
        ["rejected_at", "source", "digest", "item_index"],
    )
    op.create_index(
        op.f("rejects_reasons_idx"),
        "rejects",
        ["reasons"],
        postgresql_using="gin",
        postgresql_ops={"reasons": "jsonb_path_ops"},
    )


def downgrade() -> None:
    op.drop_index(op.f("rejects_reasons_idx"), "rejects")
    op.drop_index(op.f("rejects_rejected_at_source_digest_item_index_idx"), "rejects")
    op.drop_index(op.f("pages_source_committed_at_idx"), "pages")
    op.create_index(
        "runs_one_live_run_per_source",
        "runs",
        ["source"],
        unique=True,
        postgresql_where=sa.text(f"kind = 'live' AND {UNFINISHED}"),
    )
    op.drop_index("runs_one_of_a_kind_per_source", "runs")
