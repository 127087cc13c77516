"""Send requests to upstreams and interpret their responses."""
