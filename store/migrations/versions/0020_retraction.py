"""record the quotes that a full refresh has seen, and the retraction of the others"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("runs", sa.Column("retraction", postgresql.JSONB(), nullable=True))
    # Null in the pages of workers of earlier versions, which record no seen quotes.
    op.add_column("pages", sa.Column("unidentified", sa.Integer(), nullable=True))
    op.create_table(
        "seen_quotes",
        sa.Column("run", sa.Uuid(), nullable=False),
        sa.Column("listing_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("run", "listing_id", "observed_at", name=op.f("seen_quotes_pkey")),
    )


def downgrade() -> None:
    op.drop_table("seen_quotes")
    op.drop_column("pages", "unidentified")
    op.drop_column("runs", "retraction")
