"""Fixtures of the kit, for every test."""

from tests.kit.cassandra import cassandra, keyspaces
from tests.kit.graph_stores import graph
from tests.kit.kafka import kafka, kafka_broker, kafkas
from tests.kit.owners import owners
from tests.kit.postgres import postgres, postgres_server
from tests.kit.valkey import (
    every_redis,
    redis,
    redis_server,
    replicated_cluster,
    valkey,
    valkey_cluster,
    valkeys,
)

__all__ = [
    "cassandra",
    "every_redis",
    "graph",
    "kafka",
    "kafka_broker",
    "kafkas",
    "keyspaces",
    "owners",
    "postgres",
    "postgres_server",
    "redis",
    "redis_server",
    "replicated_cluster",
    "valkey",
    "valkey_cluster",
    "valkeys",
]
