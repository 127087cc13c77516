"""CSV files as a source: find, scan, cut into blocks, read as columns."""
