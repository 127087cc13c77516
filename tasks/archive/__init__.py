"""What is kept of the upstreams: raw bodies, stored pages, retention."""
