"""Fixtures of the kit, for every test."""

from tests.kit.cassandra import cassandra, keyspaces
from tests.kit.kafka import kafka, kafka_broker, kafkas
from tests.kit.postgres import postgres, postgres_server
from tests.kit.valkey import redis, valkey, valkey_cluster, valkeys

__all__ = [
    "cassandra",
    "kafka",
    "kafka_broker",
    "kafkas",
    "keyspaces",
    "postgres",
    "postgres_server",
    "redis",
    "valkey",
    "valkey_cluster",
    "valkeys",
]
