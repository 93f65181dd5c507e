"""What is worth saying of a training's present step, and which method its images asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008_training_steps"
down_revision = "0007_connections"


def upgrade() -> None:
    """Make the columns."""
    op.add_column("training", sa.Column("note", sa.String(200)))
    op.add_column("training", sa.Column("chosen", sa.String(50)))
    op.add_column("training", sa.Column("why", sa.Text))


def downgrade() -> None:
    """Drop them and all that is in them."""
    for column in ("why", "chosen", "note"):
        op.drop_column("training", column)
