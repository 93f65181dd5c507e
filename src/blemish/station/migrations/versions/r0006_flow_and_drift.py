"""Sinks, watched folders, and drift."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006_flow_and_drift"
down_revision = "0005"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "outbox",
        sa.Column("id", KEY, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("station", sa.String(100), nullable=False),
        sa.Column("sink", sa.String(100), nullable=False),
        sa.Column("event", sa.String(36), nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("dead", sa.Boolean, nullable=False),
        sa.Column("problem", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_station_sink_dead_id", "outbox", ["station", "sink", "dead", "id"])
    op.create_table(
        "taken_file",
        sa.Column("id", KEY, nullable=False),
        sa.Column("station", sa.String(100), nullable=False),
        sa.Column("source", sa.String(100), nullable=False),
        sa.Column("name", sa.String(300), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_taken_file"),
        sa.UniqueConstraint("station", "source", "name", name="uq_taken_file_station_source_name"),
    )
    op.create_table(
        "drift_state",
        sa.Column("id", KEY, nullable=False),
        sa.Column("station", sa.String(100), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("reference", sa.JSON, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
        sa.Column("alarm", TIME),
        sa.Column("cause", sa.String(20)),
        sa.PrimaryKeyConstraint("id", name="pk_drift_state"),
        sa.UniqueConstraint("station", "model", "version", name="uq_drift_state_station_model_version"),
    )
    op.create_table(
        "drift_day",
        sa.Column("id", KEY, nullable=False),
        sa.Column("station", sa.String(100), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("summary", sa.JSON, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_drift_day"),
        sa.UniqueConstraint("station", "model", "version", "day", name="uq_drift_day_station_model_version_day"),
    )


def downgrade() -> None:
    """Drop the tables and all that is in them."""
    for table in ("drift_day", "drift_state", "taken_file", "outbox"):
        op.drop_table(table)
