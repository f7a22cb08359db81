"""The database: connections, queries, migrations and the embedded server."""
