"""Serve what all endpoints share: arguments, errors, pagination, caching, compression, documentation."""
