"""Alembic's scripts for the tables of the sink. Run by ``fleet.migrate``; a script never changes once it is released."""
