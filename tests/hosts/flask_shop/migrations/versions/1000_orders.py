"""Orders."""

import sqlalchemy as sa
from alembic import op

revision = "1000"
down_revision = None


def upgrade():
    op.create_table(
        "bookshop_order",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("klarna_id", sa.String(), nullable=False),
        sa.Column("amount", sa.Integer(), nullable=False),
        sa.Column("is_shipped", sa.Boolean(), nullable=False),
        sa.Column("mailed_from", sa.String(), nullable=True),
    )


def downgrade():
    op.drop_table("bookshop_order")
