"""count changes that do not come from pages, so that the API's ETags change with them"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

CHANGES = {"assets": "INSERT OR UPDATE OR DELETE", "listings": "INSERT OR UPDATE OR DELETE", "quotes": "DELETE"}


def upgrade() -> None:
    op.create_table(
        "revisions",
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("part", name="revisions_pkey"),
    )
    op.execute("""
        CREATE FUNCTION count_revision() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO revisions AS was (part, number) VALUES (TG_TABLE_NAME, 1)
                ON CONFLICT (part) DO UPDATE SET number = was.number + 1;
            RETURN NULL;
        END $$
    """)
    for table, changes in CHANGES.items():
        op.execute(
            f"CREATE TRIGGER {table}_revision AFTER {changes} OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION count_revision()"
        )


def downgrade() -> None:
    for table in CHANGES:
        op.execute(f"DROP TRIGGER {table}_revision ON {table}")
    op.execute("DROP FUNCTION count_revision")
    op.drop_table("revisions")
