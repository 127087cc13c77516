"""the slice that a lease is of: those who work on one run at once take nothing from each other"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("lease_claim", sa.Integer))


def downgrade() -> None:
    op.drop_column("checkpoints", "lease_claim")
