"""Detect that the database was set back to an earlier state, report it, and repair what depends on lost commits."""
