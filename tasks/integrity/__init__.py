"""Verify on the control worker, bit by bit, that stored data is consistent."""
