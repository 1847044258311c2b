"""Many hosts: what each reports of itself to a PostgreSQL database, and what all of them come to."""
