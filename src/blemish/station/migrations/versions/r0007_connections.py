"""Sources and sinks that are named at the page."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007_connections"
down_revision = "0006_flow_and_drift"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "connection",
        sa.Column("id", KEY, nullable=False),
        sa.Column("station", sa.String(100), nullable=False),
        sa.Column("direction", sa.String(6), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("secret", sa.String(64)),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("added", TIME, nullable=False),
        sa.Column("by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_connection"),
        sa.UniqueConstraint("station", "direction", "name", name="uq_connection_station_direction_name"),
    )


def downgrade() -> None:
    """Drop the table and all that is in it."""
    op.drop_table("connection")
