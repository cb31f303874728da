"""Benchmarks: an open-loop load generator of our own, a no-op ceiling, and the reference model. `feedmesh bench` runs them."""
