"""allow raw bodies to be deleted, and count the rows that retention deleted"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.alter_column("raw_bodies", "body", nullable=True)
    op.create_index(
        "raw_bodies_kept", "raw_bodies", ["source", "received_at"], postgresql_where=sa.text("body IS NOT NULL")
    )
    op.create_index(op.f("pages_source_body_digest_fetched_at_idx"), "pages", ["source", "body_digest", "fetched_at"])
    op.drop_index(op.f("pages_source_body_digest_idx"), table_name="pages")
    for column in ("quotes_dropped", "bodies_dropped"):
        op.add_column("sources", sa.Column(column, sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    for column in ("bodies_dropped", "quotes_dropped"):
        op.drop_column("sources", column)
    op.create_index(op.f("pages_source_body_digest_idx"), "pages", ["source", "body_digest"])
    op.drop_index(op.f("pages_source_body_digest_fetched_at_idx"), table_name="pages")
    op.drop_index("raw_bodies_kept", table_name="raw_bodies")
    # Deleted bodies cannot be restored, so an empty body replaces them.
    op.execute("UPDATE raw_bodies SET body = '' WHERE body IS NULL")
    op.alter_column("raw_bodies", "body", nullable=False)
