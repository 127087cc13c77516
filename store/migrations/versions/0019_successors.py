"""allow a queued live run that starts when the current run has ended"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

ONE_OF_A_KIND = "kind IN ('live', 'replay') AND status IN ('queued', 'running', 'waiting')"


def upgrade() -> None:
    op.add_column("runs", sa.Column("after_run", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("runs_after_run_fkey"), "runs", "runs", ["after_run"], ["id"])
    op.create_index(
        "runs_one_successor",
        "runs",
        ["after_run"],
        unique=True,
        postgresql_where=sa.text("after_run IS NOT NULL AND status IN ('queued', 'running', 'waiting')"),
    )
    _replace_index(f"{ONE_OF_A_KIND} AND after_run IS NULL")


def downgrade() -> None:
    op.execute(
        "UPDATE runs SET status = 'cancelled', finished_at = clock_timestamp()"
        " WHERE after_run IS NOT NULL AND status IN ('queued', 'running', 'waiting')"
    )
    _replace_index(ONE_OF_A_KIND)
    op.drop_index("runs_one_successor", "runs")
    op.drop_column("runs", "after_run")


def _replace_index(condition: str) -> None:
    op.drop_index("runs_one_of_a_kind_per_source", "runs")
    op.create_index(
        "runs_one_of_a_kind_per_source",
        "runs",
        ["source", "kind"],
        unique=True,
        postgresql_where=sa.text(condition),
    )
