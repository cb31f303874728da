"""Fixtures of the kit, for every test."""

from tests.kit.valkey import redis, valkey, valkey_cluster, valkeys

__all__ = ["redis", "valkey", "valkey_cluster", "valkeys"]
