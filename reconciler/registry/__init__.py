"""The registry: a SQLite database with its schema, reader, writer, migrations and lock."""
