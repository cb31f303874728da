"""Fixtures of the kit, for every test; what lanes of one run keep apart."""

import os
import shutil
import tempfile

import pytest
import structlog

from feedmesh_cli.ports import PORT_RANGE
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

STATE_DIR = pytest.StashKey[str]()
FIRST = {room: place for place, room in enumerate(("system", "contract", "component"))}


def pytest_configure(config: pytest.Config) -> None:
    """Meshes of this run leave the pointer of whoever runs it alone; those of its lanes choose from their own ports."""
    # Tracebacks in colour with every variable, the default, take longer than the tests that log one.
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, plain])
    os.environ["FEEDMESH_STATE_DIR"] = config.stash[STATE_DIR] = tempfile.mkdtemp(prefix="feedmesh-state-")
    if lane := getattr(config, "workerinput", None):
        lanes, number = int(lane["workercount"]), int(lane["workerid"].removeprefix("gw"))
        first, last = map(int, PORT_RANGE.split("-"))
        ports = range(first, last + 1)
        span = len(ports) // lanes
        mine = ports[number * span : (number + 1) * span]
        os.environ["FEEDMESH_PORT_RANGE"] = f"{mine[0]}-{mine[-1]}"


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[STATE_DIR], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that lanes end together."""
    items.sort(key=lambda item: FIRST.get(item.path.parent.name, len(FIRST)))
