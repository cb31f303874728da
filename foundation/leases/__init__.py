"""Leases on worker numbers: who may mint which ids (docs/adr/0002)."""
