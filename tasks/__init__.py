"""What is done with data: the Celery app, the schedule, runs, and the pipeline. The only writer of data."""
