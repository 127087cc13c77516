"""Serve quotes: pages, latest quotes, exports."""
