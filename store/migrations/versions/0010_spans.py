"""store the time span of each page, and its listings if they are few"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    # Null in existing pages, since their spans are not known.
    op.add_column("pages", sa.Column("observed_from", sa.DateTime(timezone=True), nullable=True))
    op.add_column("pages", sa.Column("observed_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("pages", sa.Column("listings", postgresql.ARRAY(sa.Integer()), nullable=True))


def downgrade() -> None:
    op.drop_column("pages", "listings")
    op.drop_column("pages", "observed_until")
    op.drop_column("pages", "observed_from")
