"""index symbols in a collation whose upper and lower case do not depend on the database's locale"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0016"

UPPER = "upper({})"
KEY = r"left(regexp_replace(lower({}), '\W|_', '', 'g'), 10)"


def upgrade() -> None:
    _replace_indexes("symbol COLLATE pg_c_utf8")


def downgrade() -> None:
    _replace_indexes("symbol")


def _replace_indexes(symbol: str) -> None:
    # Older versions work without their indexes, only slower.
    for name, table, expression in (
        ("assets_upper_symbol_idx", "assets", UPPER),
        ("listings_upper_symbol_idx", "listings", UPPER),
        ("listings_symbol_key_idx", "listings", KEY),
    ):
        op.drop_index(name, table_name=table)
        op.create_index(name, table, [sa.text(expression.format(symbol))], unique=False)
