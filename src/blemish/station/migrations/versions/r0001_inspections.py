"""Models, inspections and reviews."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "model_version",
        sa.Column("id", KEY, nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("manifest", sa.JSON, nullable=False),
        sa.Column("added", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model_version"),
        sa.UniqueConstraint("model", "version", name="uq_model_version_model_version"),
        sa.UniqueConstraint("model", "sha256", name="uq_model_version_model_sha256"),
    )
    op.create_table(
        "activation",
        sa.Column("id", KEY, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("station", sa.String(100), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_activation"),
    )
    op.create_index("ix_activation_station_model_id", "activation", ["station", "model", "id"])
    op.create_table(
        "inspection",
        sa.Column("id", KEY, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("station", sa.String(100), nullable=False),
        sa.Column("source", sa.String(200)),
        sa.Column("file", sa.String(500)),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("image_sha256", sa.String(64), nullable=False),
        sa.Column("image_bytes", sa.BigInteger, nullable=False),
        sa.Column("verdict", sa.String(10), nullable=False),
        sa.Column("reason", sa.String(50), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("p_value", sa.Double),
        sa.Column("threshold", sa.Double),
        sa.Column("regions", sa.JSON, nullable=False),
        sa.Column("map_sha256", sa.String(64)),
        sa.Column("waited_ms", sa.Double, nullable=False),
        sa.Column("judged_ms", sa.Double, nullable=False),
        sa.Column("pictures_removed", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_inspection"),
    )
    op.create_index("ix_inspection_time", "inspection", ["time"])
    op.create_index("ix_inspection_model_id", "inspection", ["model", "id"])
    op.create_index("ix_inspection_verdict_id", "inspection", ["verdict", "id"])
    op.create_index("ix_inspection_image_sha256", "inspection", ["image_sha256"])
    op.create_index("ix_inspection_map_sha256", "inspection", ["map_sha256"])
    op.create_index("ix_inspection_pictures", "inspection", ["station", "pictures_removed", "verdict", "id"])
    op.create_table(
        "review",
        sa.Column("id", KEY, nullable=False),
        sa.Column("inspection_id", KEY, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("by", sa.String(100), nullable=False),
        sa.Column("answer", sa.String(10), nullable=False),
        sa.Column("label", sa.String(10), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("region", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_review"),
        sa.ForeignKeyConstraint(["inspection_id"], ["inspection.id"], name="fk_review_inspection_id_inspection"),
    )
    op.create_index("ix_review_inspection_id", "review", ["inspection_id"])


def downgrade() -> None:
    """Drop the tables and all that is in them."""
    for table in ("review", "inspection", "activation", "model_version"):
        op.drop_table(table)
