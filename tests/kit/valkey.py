"""A real Valkey for tests: one per run, emptied for each test."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from feedmesh_cli.valkey import ValkeyServer
from foundation.redis.client import RedisCluster, connect


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the run's Valkey. Its owner is a loop on a thread of its own, alive as long as the run."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = ValkeyServer()
    port = free_port()
    directory = tmp_path_factory.mktemp("valkey")
    asyncio.run_coroutine_threadsafe(server.start(directory, port), loop).result(20)
    yield port
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.fixture
async def redis(valkey: int) -> AsyncIterator[RedisCluster]:
    """A client of the run's Valkey, empty."""
    client = await connect([("127.0.0.1", valkey)], timeout_s=1.0)
    await client.flush_all()
    yield client
    await client.close()
