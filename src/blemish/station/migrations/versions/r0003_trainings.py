"""Trainings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_trainings"
down_revision = "0002"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "training",
        sa.Column("id", KEY, nullable=False),
        sa.Column("added", TIME, nullable=False),
        sa.Column("station", sa.String(100), nullable=False),
        sa.Column("by", sa.String(100), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("source", sa.String(10), nullable=False),
        sa.Column("folder", sa.Text),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("started", TIME),
        sa.Column("ended", TIME),
        sa.Column("stage", sa.String(200), nullable=False),
        sa.Column("progress", sa.Double, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("version", sa.Integer),
        sa.PrimaryKeyConstraint("id", name="pk_training"),
    )
    op.create_index("ix_training_station_state_id", "training", ["station", "state", "id"])


def downgrade() -> None:
    """Drop the table and all that is in it."""
    op.drop_table("training")
