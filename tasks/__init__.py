"""Celery app, schedule, runs and pipeline: the only code that writes data."""

import os

# Set before polars is loaded: its allocator reads this once. It returns freed memory to the system after one second
# instead of ten. While pages follow one another, the next page reuses that memory. Returning it at once would take a
# third more time.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:1000,muzzy_decay_ms:0")

# A block is too small to divide: two threads take as long as one, and use a tenth more of the cores, which Postgres
# needs. Several processes share the work instead.
os.environ.setdefault("POLARS_MAX_THREADS", "1")
