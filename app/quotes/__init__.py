"""Quotes as the API serves them: pages, the latest, exports."""
