"""each page tells from when to when it speaks, and of which listings where they are few"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    # Null in the pages of before: of those it is not known.
    op.add_column("pages", sa.Column("observed_from", sa.DateTime(timezone=True), nullable=True))
    op.add_column("pages", sa.Column("observed_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("pages", sa.Column("listings", postgresql.ARRAY(sa.Integer()), nullable=True))


def downgrade() -> None:
    op.drop_column("pages", "listings")
    op.drop_column("pages", "observed_until")
    op.drop_column("pages", "observed_from")
