"""How the service is: health, metrics, statistics."""
