"""Implement the commands of `python -m tasks`."""
