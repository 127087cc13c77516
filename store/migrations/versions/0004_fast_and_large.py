"""default quotes.ingested_at, so that COPY can omit it; do not compress raw bodies again"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.alter_column("quotes", "ingested_at", server_default=sa.text("now()"))
    op.execute("ALTER TABLE raw_bodies ALTER body SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.execute("ALTER TABLE raw_bodies ALTER body SET STORAGE EXTENDED")
    op.alter_column("quotes", "ingested_at", server_default=None)
