"""store the fields of each source's items, and record each change"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"

NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "shapes",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("run", sa.Uuid(), nullable=False),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.Column("fields", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("shapes_run_fkey")),
        sa.ForeignKeyConstraint(["source"], ["sources.name"], name=op.f("shapes_source_fkey")),
        sa.PrimaryKeyConstraint("source", "format", "version", name=op.f("shapes_pkey")),
    )
    op.create_table(
        "drift",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("was", sa.Text(), nullable=True),
        sa.Column("became", sa.Text(), nullable=True),
        sa.Column("confidence", sa.Numeric(), nullable=True),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("new_field", postgresql.JSONB(), nullable=True),
        sa.Column("run", sa.Uuid(), nullable=False),
        sa.Column("last_run", sa.Uuid(), nullable=False),
        sa.Column("pages", sa.Integer(), server_default="1", nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("accepted_by", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('new', 'vanished', 'renamed', 'retyped')", name=op.f("drift_kind_check")),
        sa.ForeignKeyConstraint(["last_run"], ["runs.id"], name=op.f("drift_last_run_fkey")),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("drift_run_fkey")),
        sa.ForeignKeyConstraint(["source"], ["sources.name"], name=op.f("drift_source_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("drift_pkey")),
    )
    op.create_index(op.f("drift_source_id_idx"), "drift", ["source", "id"])
    change: list[str | sa.TextClause] = ["kind", "field", sa.text("coalesce(became, '')")]
    op.create_index(
        "drift_waiting",
        "drift",
        ["source", "format", *change],
        unique=True,
        postgresql_where=sa.text("accepted_at IS NULL"),
    )
    op.create_index(
        "drift_evolved",
        "drift",
        ["source", "format", "version", *change],
        unique=True,
        postgresql_where=sa.text("accepted_by = 'policy'"),
    )


def downgrade() -> None:
    op.drop_table("drift")
    op.drop_table("shapes")
