"""count the items that are left out or contradict each other, and the side values that are dropped"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"

OUTCOMES = "inserted + updated + unchanged + superseded + deduplicated + rejected"


def upgrade() -> None:
    for name in ("left_out", "conflicting"):
        op.add_column("pages", sa.Column(name, sa.Integer(), server_default="0", nullable=False))
    for name in ("conflict", "dropped"):
        op.add_column("pages", sa.Column(name, postgresql.JSONB(), nullable=True))
    _replace_law(f"{OUTCOMES} + left_out")


def downgrade() -> None:
    # The previous version does not count these items.
    op.execute("UPDATE pages SET fetched = fetched - left_out WHERE left_out > 0")
    _replace_law(OUTCOMES)
    for name in ("dropped", "conflict", "conflicting", "left_out"):
        op.drop_column("pages", name)


def _replace_law(outcomes: str) -> None:
    op.drop_constraint(op.f("pages_conservation_check"), "pages", type_="check")
    op.create_check_constraint(op.f("pages_conservation_check"), "pages", f"fetched = {outcomes}")
