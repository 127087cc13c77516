"""What is done with data: the Celery app, the schedule, runs, and the pipeline. The only writer of data."""

import os

# Before polars is loaded. What it frees goes back to the system after a second and not after ten: while pages come one
# after the other, that is as much as the next one takes. At once would take a third of the time again.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:1000,muzzy_decay_ms:0")

# A block is too small to be divided: two threads take as long as one, and a tenth more of the cores, which Postgres has
# better use for. What is done side by side is done by several processes.
os.environ.setdefault("POLARS_MAX_THREADS", "1")
