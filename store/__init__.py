"""Where the data is kept: tables, engine, migrations. Knows nothing of sources, tasks or the API."""
