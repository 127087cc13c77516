"""The life of a run: request, claim, leases, partitions, reconciliation."""
