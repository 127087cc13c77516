"""Where data comes from: HTTP, files, and the shape of the unified record. Knows no Flask, no Celery, no SQLAlchemy."""
