"""Runs, their rejects and their anomalies."""
