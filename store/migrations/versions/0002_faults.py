"""add circuit breakers, validators and the newest slot of a source"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("sources", sa.Column("breaker_failures", sa.Integer(), server_default="0", nullable=False))
    op.add_column("sources", sa.Column("breaker_opened_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sources", sa.Column("breaker_probe_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sources", sa.Column("last_slot", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "validators",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("last_modified", sa.Text(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("mapping", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["source"], ["sources.name"], name=op.f("validators_source_fkey")),
        sa.PrimaryKeyConstraint("source", "partition", "request", name=op.f("validators_pkey")),
    )


def downgrade() -> None:
    op.drop_table("validators")
    for column in ("last_slot", "breaker_probe_until", "breaker_opened_at", "breaker_failures"):
        op.drop_column("sources", column)
