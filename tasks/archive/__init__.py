"""Store raw bodies, find stored pages, delete expired rows."""
