"""The life of a run: requests, slots, publishing, claims, leases, partitions, reconciliation."""
