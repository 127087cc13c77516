"""What every endpoint shares: requests, responses, errors, caching, documentation."""
