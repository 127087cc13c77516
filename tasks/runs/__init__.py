"""Manage runs: requests, slots, publishing, claims, leases, partitions, reconciliation."""
