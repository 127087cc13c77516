"""Sources: schedule, drift, the history of their runs."""
