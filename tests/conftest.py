"""Fixtures of the kit, for every test."""

from tests.kit.valkey import redis, valkey

__all__ = ["redis", "valkey"]
