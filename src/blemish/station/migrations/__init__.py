"""The history of the tables, one file a step; Alembic runs them."""
