"""compare each finished run with earlier runs, and store anomalies"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"

UNJUDGED = "judged_at IS NULL AND kind = 'live' AND status IN ('succeeded', 'partial', 'failed')"


def upgrade() -> None:
    op.add_column("pages", sa.Column("filled", postgresql.JSONB(), nullable=True))
    op.add_column("runs", sa.Column("figures", postgresql.JSONB(), nullable=True))
    op.add_column("runs", sa.Column("judged_at", sa.DateTime(timezone=True), nullable=True))
    # Existing runs are not compared, since their null counts are not known.
    op.execute("UPDATE runs SET judged_at = clock_timestamp() WHERE finished_at IS NOT NULL")
    op.create_index("runs_unjudged", "runs", ["finished_at"], postgresql_where=sa.text(UNJUDGED))
    op.create_table(
        "anomalies",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("run", sa.Uuid(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("value", sa.Numeric(), nullable=True),
        sa.Column("expected", sa.Numeric(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("over_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("anomalies_run_fkey")),
        sa.ForeignKeyConstraint(["source"], ["sources.name"], name=op.f("anomalies_source_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("anomalies_pkey")),
    )
    op.create_index(op.f("anomalies_run_idx"), "anomalies", ["run"])
    op.create_index(op.f("anomalies_source_id_idx"), "anomalies", ["source", "id"])
    op.create_index(
        "anomalies_late",
        "anomalies",
        ["source"],
        unique=True,
        postgresql_where=sa.text("kind = 'late' AND over_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("anomalies")
    op.drop_index("runs_unjudged", "runs")
    op.drop_column("runs", "judged_at")
    op.drop_column("runs", "figures")
    op.drop_column("pages", "filled")
