"""Stream files: rows from Postgres, Parquet, the connection to the client."""
