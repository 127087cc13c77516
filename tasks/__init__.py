"""Ingest data: the Celery app, the schedule, the runs and the pipeline. No other package writes data."""

import os

# Set this before polars is loaded, because its memory allocator reads it only once. The allocator then returns freed
# memory to the system after one second instead of ten. Until then, the next page reuses that memory. If freed memory
# were returned immediately, loading would take a third longer.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:1000,muzzy_decay_ms:0")

# A block of a CSV file is too small to divide among threads. Two threads take as long as one, and use a tenth more CPU
# time, which Postgres needs. Several processes share the work instead.
os.environ.setdefault("POLARS_MAX_THREADS", "1")
