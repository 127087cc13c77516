"""record which partitions a run could not read, and why"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("failed_by", sa.Uuid(), nullable=True))
    op.add_column("checkpoints", sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("checkpoints", sa.Column("error", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    for column in ("error", "failed_at", "failed_by"):
        op.drop_column("checkpoints", column)
