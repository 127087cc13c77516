"""record for which configuration a source was paused"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.add_column("sources", sa.Column("paused_configuration", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("sources", "paused_configuration")
