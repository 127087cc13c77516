"""Protect an upstream: rate limits, monthly budget, circuit breaker."""
