"""after a set-back of the database, distinguish its new commits from those that it lost"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"

# A random step never repeats a number that the database has lost. floor(random() * 2^31) is at most 2^31 - 1.
RANDOM_STEP = "1 + floor(random() * 2147483648)::bigint"

COUNT_REVISION = """
    CREATE OR REPLACE FUNCTION count_revision() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO revisions AS was (part, number) VALUES (TG_TABLE_NAME, {first})
            ON CONFLICT (part) DO UPDATE SET number = was.number + {step};
        RETURN NULL;
    END $$
"""


def upgrade() -> None:
    # Null for the claims of workers of earlier versions, which leave the column unchanged.
    op.add_column("runs", sa.Column("claim_token", sa.Uuid(), nullable=True))
    op.execute(COUNT_REVISION.format(first=RANDOM_STEP, step=RANDOM_STEP))
    op.create_table(
        "timelines",
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("token", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("system_identifier", sa.Text(), nullable=True),
        sa.Column("timeline", sa.Integer(), nullable=True),
        sa.Column("lsn", sa.Text(), nullable=True),
        sa.Column("sweeps", postgresql.ARRAY(sa.BigInteger()), server_default="{}", nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("timelines_pkey")),
    )
    op.create_index(
        "anomalies_set_back",
        "anomalies",
        ["source"],
        postgresql_where=sa.text("kind = 'set_back' AND over_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("anomalies_set_back", "anomalies")
    op.drop_table("timelines")
    op.execute(COUNT_REVISION.format(first="1", step="1"))
    op.drop_column("runs", "claim_token")
