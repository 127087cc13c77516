"""Serve runs, their rejects and their anomalies."""
