"""Store the data: tables, engine and migrations. This package does not depend on sources, tasks or the API."""
