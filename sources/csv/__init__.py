"""Read CSV files as a source: find them, detect what is new, cut it into blocks, and read blocks as columns."""
