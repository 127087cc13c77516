"""Serve health checks, Prometheus metrics and statistics."""
