"""Benchmarks behind `feedmesh bench`: an open-loop load generator of our own, a no-op ceiling, the reference model."""
