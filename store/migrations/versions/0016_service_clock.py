"""add a clock that never goes back, and count superseded quotes"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

# Columns with times that sort lists, or that are compared with the current time.
DEFAULTS = (
    ("anomalies", "found_at"),
    ("assets", "created_at"),
    ("candidates", "found_at"),
    ("checkpoints", "updated_at"),
    ("decisions", "decided_at"),
    ("drift", "last_seen_at"),
    ("drift", "seen_at"),
    ("listings", "created_at"),
    ("runs", "requested_at"),
    ("shapes", "created_at"),
    ("timelines", "began_at"),
)

# While the service's clock is ahead, it runs at nine tenths of its speed. The table is empty before a first correction.
# Both functions are volatile, so that a statement that waited for a lock uses the newest correction.
CLOCK_AHEAD = """
    CREATE FUNCTION clock_ahead(wall timestamptz) RETURNS double precision LANGUAGE sql VOLATILE
    BEGIN ATOMIC
        SELECT coalesce((SELECT greatest(0, ahead - 0.1 * greatest(0, extract(epoch FROM wall - since)::float8))
                           FROM clock), 0);
    END
"""
SERVICE_TIME = """
    CREATE FUNCTION service_time() RETURNS timestamptz LANGUAGE sql VOLATILE
    BEGIN ATOMIC
        SELECT wall + make_interval(secs => clock_ahead(wall)) FROM (SELECT clock_timestamp() AS wall OFFSET 0) AS now;
    END
"""


def upgrade() -> None:
    op.create_table(
        "clock",
        sa.Column("single", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("ahead", sa.Double(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("single", name=op.f("clock_single_check")),
        sa.PrimaryKeyConstraint("single", name=op.f("clock_pkey")),
    )
    op.execute(CLOCK_AHEAD)
    op.execute(SERVICE_TIME)
    for table, column in DEFAULTS:
        op.alter_column(table, column, server_default=sa.text("service_time()"))
    op.add_column("pages", sa.Column("superseded", sa.Integer(), server_default="0", nullable=False))
    op.drop_constraint(op.f("pages_conservation_check"), "pages", type_="check")
    op.create_check_constraint(
        op.f("pages_conservation_check"),
        "pages",
        "fetched = inserted + updated + unchanged + superseded + deduplicated + rejected",
    )


def downgrade() -> None:
    op.drop_constraint(op.f("pages_conservation_check"), "pages", type_="check")
    op.execute("UPDATE pages SET unchanged = unchanged + superseded")
    op.drop_column("pages", "superseded")
    op.create_check_constraint(
        op.f("pages_conservation_check"),
        "pages",
        "fetched = inserted + updated + unchanged + deduplicated + rejected",
    )
    for table, column in DEFAULTS:
        op.alter_column(table, column, server_default=sa.text("clock_timestamp()"))
    op.execute("DROP FUNCTION service_time()")
    op.execute("DROP FUNCTION clock_ahead(timestamptz)")
    op.drop_table("clock")
