"""store every decision that assigns a listing to an asset, so that it can be undone"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("assets", sa.Column("merged_into", sa.BigInteger(), nullable=True))
    op.create_foreign_key(op.f("assets_merged_into_fkey"), "assets", "assets", ["merged_into"], ["id"])
    op.create_table(
        "decisions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("change", sa.Uuid(), nullable=True),
        sa.Column("listing", sa.Integer(), nullable=False),
        sa.Column("asset", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Numeric(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "decided_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["asset"], ["assets.id"], name=op.f("decisions_asset_fkey")),
        sa.ForeignKeyConstraint(["listing"], ["listings.id"], name=op.f("decisions_listing_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("decisions_pkey")),
    )
    op.create_index(op.f("decisions_change_idx"), "decisions", ["change"])
    op.create_index(op.f("decisions_listing_id_idx"), "decisions", ["listing", "id"])
    op.create_table(
        "candidates",
        sa.Column("one", sa.BigInteger(), nullable=False),
        sa.Column("other", sa.BigInteger(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["one"], ["assets.id"], name=op.f("candidates_one_fkey")),
        sa.ForeignKeyConstraint(["other"], ["assets.id"], name=op.f("candidates_other_fkey")),
        sa.PrimaryKeyConstraint("one", "other", name=op.f("candidates_pkey")),
    )
    # Store the assignments that were made before this table existed.
    op.execute("""
        INSERT INTO decisions (listing, asset, method, confidence, decided_by, decided_at)
        SELECT id, asset, method, confidence, 'resolver', created_at FROM listings ORDER BY id
    """)


def downgrade() -> None:
    op.drop_table("candidates")
    op.drop_table("decisions")
    op.drop_column("assets", "merged_into")
