"""remember the partitions whose newest content could not be loaded, and the partitions that are missing"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0025"
down_revision = "0023"


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("verdict", postgresql.JSONB(), nullable=True))
    op.add_column("checkpoints", sa.Column("missing_since", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("checkpoints", "missing_since")
    op.drop_column("checkpoints", "verdict")
