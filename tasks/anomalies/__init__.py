"""Compare each run with earlier runs, and each source with the others."""
