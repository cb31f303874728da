"""One Kafka broker of our own in KRaft mode: broker and controller in one process, its data below its directory."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from feedmesh_cli.children import Child, start_child
from feedmesh_cli.engines.waiting import not_started, until_ready
from foundation.model.clock import SystemRandomness

HOST = "127.0.0.1"
READY_WITHIN_S = 60.0
FORMAT_WITHIN_S = 30.0
HEAP = "512m"
_JVM = (
    f"-Xmx{HEAP}",
    "-Xms128m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-XX:+ExitOnOutOfMemoryError",
)
_LOGGING = """status=warn
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{1}: %m%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=OUT
"""
_API_VERSIONS = 18


class KafkaServer:
    """Start it once. *settings* go into its server.properties beside and over ours."""

    def __init__(self, java: str, class_path: str, settings: Mapping[str, str] | None = None) -> None:
        self._java = java
        self._more = dict(settings or {})
        self._class_path = class_path
        self._child: Child | None = None
        self._port = 0

    @property
    def child(self) -> Child:
        """The process."""
        if self._child is None:
            raise RuntimeError("this Kafka was not started")
        return self._child

    async def launch(self, directory: Path, port: int, controller_port: int) -> None:
        """Begin to serve on 127.0.0.1:*port* what lies in *directory*. Raises CliError."""
        self._port = port
        data = directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        properties = directory / "server.properties"
        more = "".join(f"{name}={value}\n" for name, value in self._more.items())  # the last of a name counts
        properties.write_text(_properties(data, port, controller_port) + more, encoding="utf-8")
        (directory / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
        if not (data / "meta.properties").exists():
            await self._format(directory, properties)
        self._child = await start_child(
            "kafka", self._command(directory, "kafka.Kafka", str(properties)), directory / "kafka.log"
        )

    async def ready(self) -> None:
        """Returns once it answers clients. Raises CliError."""
        await until_ready(self.child, self._answers, within_s=READY_WITHIN_S, where=f"{HOST}:{self._port}")

    async def stop(self) -> None:
        """End it; it flushes what it holds."""
        if self._child is not None:
            await self._child.stop(grace_s=10.0)

    async def _format(self, directory: Path, properties: Path) -> None:
        formatting = await start_child(
            "kafka",
            self._command(
                directory, "kafka.tools.StorageTool", "format", "--standalone",
                "-t", _cluster_id(), "-c", str(properties),
            ),
            directory / "format.log",
        )  # fmt: skip
        try:
            async with asyncio.timeout(FORMAT_WITHIN_S):
                if await formatting.wait() == 0:
                    return
        except TimeoutError:
            pass
        finally:
            await formatting.stop(grace_s=0.5)
        raise not_started(formatting, "its directory could not be formatted", str(directory))

    def _command(self, directory: Path, main: str, *arguments: str) -> Sequence[str]:
        logging = f"-Dlog4j2.configurationFile={directory / 'log4j2.properties'}"
        return [self._java, *_JVM, logging, "-cp", self._class_path, main, *arguments]

    async def _answers(self) -> bool:
        """Whether a broker answers ApiVersions, version 0."""
        try:
            async with asyncio.timeout(2.0):
                reader, writer = await asyncio.open_connection(HOST, self._port)
                try:
                    request = struct.pack(">hhih", _API_VERSIONS, 0, 1, -1)
                    writer.write(struct.pack(">i", len(request)) + request)
                    size, correlation, error = struct.unpack(">iih", await reader.readexactly(10))
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False
        return bool(size > 6 and correlation == 1 and error == 0)


def _cluster_id() -> str:
    import base64

    return base64.urlsafe_b64encode(SystemRandomness().token_bytes(16)).rstrip(b"=").decode().replace("-", "A")


def _properties(data: Path, port: int, controller_port: int) -> str:
    """Replication is 1 because there is one broker; an acknowledged record is flushed by its segment's rules."""
    return f"""process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}
advertised.listeners=PLAINTEXT://{HOST}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
controller.quorum.bootstrap.servers={HOST}:{controller_port}
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.consumer.session.timeout.ms=6000
group.consumer.min.session.timeout.ms=3000
group.consumer.heartbeat.interval.ms=1000
group.consumer.min.heartbeat.interval.ms=500
log.segment.bytes=67108864
num.network.threads=2
num.io.threads=4
"""
