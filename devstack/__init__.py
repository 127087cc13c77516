"""Run all of Kasparro on one machine: real servers on loopback and the Procfile's processes. Not for production."""
