"""Decide which listings of different sources are one asset."""
