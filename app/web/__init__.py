"""Provide the code that all endpoints share: arguments, errors, pagination, caching, compression, documentation."""
