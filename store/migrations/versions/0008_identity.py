"""index listings by symbol key, so that symbols match despite punctuation and case"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    key = sa.text(r"left(regexp_replace(lower(symbol), '\W|_', '', 'g'), 10)")
    op.create_index("listings_symbol_key_idx", "listings", [key], unique=False)


def downgrade() -> None:
    op.drop_index("listings_symbol_key_idx", table_name="listings")
