"""Read CSV files as a source: find files, detect new data, cut it into blocks, and parse blocks as columns."""
