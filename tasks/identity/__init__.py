"""Decide which listings of different sources are the same asset.

- resolver: look up the listings of a page, and add new listings.
- assignment: assign new listings to assets by rules.
- similarity: compare the names and ids of listings.
- rematch: compare all assets again later, with all listings and prices.
- decisions, undo: store and revert people's decisions.
- overrides_file, apply_overrides: read and apply the decisions in a file.
"""
