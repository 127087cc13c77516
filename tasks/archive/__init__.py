"""Store raw bodies, find stored pages, and delete expired rows."""
