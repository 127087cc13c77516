"""Ingest pages: fetch, parse, normalize, load, commit."""
