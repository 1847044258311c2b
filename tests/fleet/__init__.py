"""The report sink and the view of all hosts, on a real PostgreSQL."""
