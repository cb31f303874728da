"""A real Cassandra for tests, one per run, and keyspaces on it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from feedmesh_cli.engines.cassandra import CassandraServer
from feedmesh_cli.engines.jars import class_paths
from feedmesh_cli.engines.java import find_java
from feedmesh_cli.ports import free_ports
from foundation.cql.address import CqlAddress
from foundation.cql.migrations import migrate, migrations_of, open_keyspace
from foundation.cql.session import Cql
from foundation.model.clock import SystemClock
from tests.kit.valkey import Valkeys

START_TIMEOUT_S = 180
_numbers = count(1)


class OwnCassandra:
    """One server; it may be killed and started again on its data."""

    def __init__(self, starter: Valkeys, directory: Path, settings: Mapping[str, object] | None = None) -> None:
        self._starter = starter
        self._directory = directory
        self._settings = settings
        self.port, self._storage_port = free_ports(2)
        self._server: CassandraServer
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._server.child.pid

    def start(self) -> None:
        self._starter.call(self._start(), timeout_s=START_TIMEOUT_S)

    def kill(self) -> None:
        self._starter.call(self._kill())

    def stop(self) -> None:
        self._starter.call(self._server.stop())

    async def _start(self) -> None:
        paths = await class_paths(["cassandra"], lambda _, __: None)
        self._server = CassandraServer(find_java().command, paths["cassandra"], self._settings)
        await self._server.launch(self._directory, self.port, self._storage_port)
        await self._server.ready()

    async def _kill(self) -> None:
        self._server.child.kill()
        await self._server.child.wait()


@pytest.fixture(scope="session")
def cassandra(valkeys: Valkeys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of the run's Cassandra: one of its own, or one that several runs share."""
    if shared := os.environ.get("FEEDMESH_TEST_CASSANDRA"):
        yield shared
        return
    own = OwnCassandra(valkeys, tmp_path_factory.mktemp("cassandra"))
    yield own.address
    own.stop()


@pytest.fixture(scope="session")
def keyspaces(cassandra: str) -> dict[str, str]:
    """Package to the URL of the run's keyspace with that package's tables; filled by `migrated`."""
    return {"": cassandra}


@asynccontextmanager
async def migrated(keyspaces: dict[str, str], package: str) -> AsyncIterator[Cql]:
    """A session of the keyspace of *package*, made at its first use: tests keep apart by fresh ids."""
    if package not in keyspaces:
        url = f"cassandra://{keyspaces['']}/test_{os.getpid()}_{next(_numbers)}"
        await migrate(CqlAddress.parse(url), migrations_of(package), SystemClock(), holder="tests")
        keyspaces[package] = url
    async with open_keyspace(keyspaces[package], package) as cql:
        yield cql
