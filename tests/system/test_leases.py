"""Services lease the number they mint ids with: two never have the same, and who is started again has its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from feedmesh.graph.v1.user_service_pb2 import CreateUserRequest
from feedmesh.graph.v1.user_service_pb2_grpc import UserServiceStub
from grpc import StatusCode, aio

from feedmesh_cli.ports import free_ports
from foundation.model.ids import worker_of
from foundation.rpc.tokens import DevIssuer
from foundation.sql.database import open_database
from graph_svc.adapters.tables import GRAPH_TABLES, WORKER_LEASES
from tests.kit.eventually import eventually

HIDE_LEASES = "ALTER TABLE worker_leases RENAME TO elsewhere"
SHOW_LEASES = "ALTER TABLE elsewhere RENAME TO worker_leases"


@dataclass
class Graphs:
    """Processes of graph_svc over one store."""

    directory: Path
    valkey: int

    def __post_init__(self) -> None:
        self.issuer = DevIssuer.load_or_create(self.directory)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.directory}/graph.db"

    @asynccontextmanager
    async def process(self, port: int, **told: str) -> AsyncIterator[asyncio.subprocess.Process]:
        environment: Mapping[str, str] = {
            **os.environ,
            "FEEDMESH_REDIS": f"127.0.0.1:{self.valkey}",
            "FEEDMESH_LOG_URL": f"sqlite:///{self.directory}/log.db",
            "FEEDMESH_DATABASE_URL": self.url,
            "FEEDMESH_JWKS_PATH": str(self.issuer.jwks_path),
            "FEEDMESH_INTERNAL_KEY": "an internal key of a test",
            "FEEDMESH_CURSOR_KEY": "00" * 32,
            "FEEDMESH_WORKER": "7",
            "FEEDMESH_PORT": str(port),
            **told,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "graph_svc", env=environment, stderr=asyncio.subprocess.PIPE
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture
def graphs(valkey: int, tmp_path: Path) -> Graphs:
    return Graphs(tmp_path, valkey)


async def worker_at(port: int, name: str) -> int:
    """The worker that mints at this port, once it serves: it makes the account *name*."""
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        created = await UserServiceStub(channel).CreateUser(
            CreateUserRequest(username=name), timeout=20, wait_for_ready=True
        )
        return worker_of(created.user.user_id)


async def test_two_processes_never_mint_with_one_number(graphs: Graphs) -> None:
    one, two = free_ports(2)
    async with graphs.process(one):
        assert await worker_at(one, "ana") == 7
        async with graphs.process(two) as second:
            async with asyncio.timeout(20):
                _, told = await second.communicate()
            assert second.returncode == 1
            assert b"WORKERS_TAKEN" in told
            assert f"graph_svc at 127.0.0.1:{one}".encode() in told
        async with graphs.process(two, FEEDMESH_WORKERS="2"):
            assert await worker_at(two, "bo") == 8
        async with graphs.process(one) as again:
            async with asyncio.timeout(20):
                _, told = await again.communicate()
            assert again.returncode == 1
            assert b"ALREADY_RUNNING" in told
        assert await worker_at(one, "cy") == 7


async def test_a_killed_process_that_is_started_again_has_its_number_at_once(graphs: Graphs) -> None:
    (port,) = free_ports(1)
    async with graphs.process(port) as killed:
        assert await worker_at(port, "ana") == 7
        killed.kill()
        await killed.wait()
    async with graphs.process(port):
        assert await worker_at(port, "bo") == 7


@pytest.mark.slow
async def test_a_process_whose_number_somebody_else_has_ends_and_says_so(graphs: Graphs) -> None:
    (port,) = free_ports(1)
    async with graphs.process(port) as process:
        assert await worker_at(port, "ana") == 7
        async with open_database(graphs.url, GRAPH_TABLES) as database:
            await database.write(lambda connection: connection.execute(WORKER_LEASES.update().values(life="another's")))
        async with asyncio.timeout(30):
            _, told = await process.communicate()
        assert process.returncode == 1
        assert b"another process has worker 7" in told
        assert b"ID_LEASE_LOST" in told


@pytest.mark.slow
async def test_without_leases_ids_are_refused_until_they_are_there_again(graphs: Graphs) -> None:
    (port,) = free_ports(1)
    names = iter(f"user{number}" for number in range(10_000))

    async def refused() -> bool:
        try:
            await worker_at(port, next(names))
        except aio.AioRpcError as failure:
            assert failure.code() is StatusCode.UNAVAILABLE
            assert "lease" in (failure.details() or "")
            return True
        return False

    async def minted() -> bool:
        return not await refused()

    async with graphs.process(port):
        assert await worker_at(port, "ana") == 7
        async with open_database(graphs.url, GRAPH_TABLES) as database:
            await database.write(lambda connection: connection.exec_driver_sql(HIDE_LEASES) and None)
            await eventually(refused, timeout_s=40, every_s=0.5)
            await database.write(lambda connection: connection.exec_driver_sql(SHOW_LEASES) and None)
            await eventually(minted, timeout_s=10, every_s=0.1)
