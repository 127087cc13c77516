"""Provide services that every process needs: logs, database, retries, heartbeats, shutdown."""
