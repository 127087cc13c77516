"""Detect changes in the fields of a source's items, and apply its drift policy."""
