"""A page's way from fetch to commit: fetch, parse, normalize, load."""
