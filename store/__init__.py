"""Store the data: tables, engine and migrations. Independent of sources, tasks and the API."""
