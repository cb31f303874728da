"""Real Kafka for tests: one broker per run, and brokers of a test's own that may die and come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from feedmesh_cli.engines.jars import class_paths
from feedmesh_cli.engines.java import find_java
from feedmesh_cli.engines.kafka import KafkaServer
from feedmesh_cli.failures import CliError
from feedmesh_cli.ports import free_ports
from foundation.events.kafka_topics import apply_topics

T = TypeVar("T")
TRIES = 3
ANSWERS_WITHIN_S = 100


class Kafkas:
    """Starts brokers from a thread with a loop of its own: they die with the thread that started them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="kafkas")
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWERS_WITHIN_S)

    async def call_from_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """The same, without blocking the loop of the test."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


class KafkaBroker:
    """One broker and its data. It may be killed and started again, on the same port."""

    def __init__(self, kafkas: Kafkas, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self._kafkas = kafkas
        self._directory = directory
        self._settings = settings
        self._server: KafkaServer | None = None
        self._ports = [0, 0]

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self._ports[0]}"

    async def start(self) -> None:
        """Returns when it answers."""
        await self._kafkas.call_from_loop(self.started())

    async def kill(self) -> None:
        """SIGKILL: no goodbye to anybody."""
        await self._kafkas.call_from_loop(self._killed())

    async def started(self) -> None:
        """start(), on the loop of its owner."""
        java = find_java().command
        classes = (await class_paths(["kafka"], lambda _there, _all: None))["kafka"]
        for chance in range(TRIES):
            if not self._ports[0]:
                self._ports = free_ports(2)
            self._server = KafkaServer(java, classes, self._settings)
            try:
                await self._server.launch(self._directory, self._ports[0], self._ports[1])
                await self._server.ready()
                break
            except CliError:  # somebody took a port
                await self.stopped()
                if chance == TRIES - 1:
                    raise
                if not (self._directory / "data" / "meta.properties").exists():
                    self._ports = [0, 0]

    async def stopped(self) -> None:
        """End it, if it runs, on the loop of its owner."""
        if self._server is not None:
            await self._server.stop()

    async def _killed(self) -> None:
        assert self._server is not None
        self._server.child.kill()
        await self._server.child.wait()


@pytest.fixture(scope="session")
def kafkas() -> Iterator[Kafkas]:
    """The owner of the run's brokers, alive as long as the run."""
    owner = Kafkas()
    yield owner
    owner.close()


@pytest.fixture(scope="session")
def kafka(kafkas: Kafkas, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The run's broker, "127.0.0.1:port", with feedmesh's topics."""
    broker = KafkaBroker(kafkas, tmp_path_factory.mktemp("kafka"))
    kafkas.call(broker.started())
    try:
        kafkas.call(apply_topics(broker.servers))
        yield broker.servers
    finally:
        kafkas.call(broker.stopped())


@pytest.fixture
def kafka_broker(kafkas: Kafkas, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker of this test's own, with nothing on it."""
    broker = KafkaBroker(kafkas, tmp_path / "kafka")
    kafkas.call(broker.started())
    yield broker
    kafkas.call(broker.stopped())
