"""Rates chosen at the station, and those that an inspection was judged by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0002"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table and the columns."""
    op.create_table(
        "rates",
        sa.Column("id", KEY, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("station", sa.String(100), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("false_alarm_rate", sa.Double, nullable=False),
        sa.Column("review_rate", sa.Double, nullable=False),
        sa.Column("by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rates"),
    )
    op.create_index("ix_rates_station_model_version_id", "rates", ["station", "model", "version", "id"])
    op.add_column("inspection", sa.Column("false_alarm_rate", sa.Double))
    op.add_column("inspection", sa.Column("review_rate", sa.Double))


def downgrade() -> None:
    """Drop them and all that is in them."""
    op.drop_column("inspection", "review_rate")
    op.drop_column("inspection", "false_alarm_rate")
    op.drop_table("rates")
