"""Invented data in the shapes that upstreams and CSV files really have. See README.md."""
