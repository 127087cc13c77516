"""Generate invented data in the formats of real upstreams and CSV files. See README.md."""
