"""store the positions and results of the checks of stored data"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "integrity",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.Text(), nullable=True),
        sa.Column("found", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("example", sa.Text(), nullable=True),
        sa.Column("violations", sa.BigInteger(), nullable=True),
        sa.Column("last_example", sa.Text(), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("integrity_pkey")),
    )


def downgrade() -> None:
    op.drop_table("integrity")
