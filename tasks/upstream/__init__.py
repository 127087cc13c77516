"""Protect upstreams: rate limits, monthly budgets, circuit breakers."""
