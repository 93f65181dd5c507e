"""What Alembic runs to migrate: over the connection that `blemish.station.store` hands it, in its transaction."""

from __future__ import annotations

from alembic import context

from blemish.station.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
context.run_migrations()
