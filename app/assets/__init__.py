"""Serve assets and their listings, decisions, candidate pairs and price agreement."""
