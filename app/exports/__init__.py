"""Stream files to clients: read rows from Postgres, encode them, and guard the connection."""
