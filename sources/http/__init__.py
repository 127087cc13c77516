"""Requests to an upstream, and what its responses mean."""
