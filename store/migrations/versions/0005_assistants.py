"""record the slice that holds a lease, so that assistants of one run do not take leases from each other"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("lease_claim", sa.Integer))


def downgrade() -> None:
    op.drop_column("checkpoints", "lease_claim")
