"""Verify on the control worker, batch by batch, that stored data is consistent."""
