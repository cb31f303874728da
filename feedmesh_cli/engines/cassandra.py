"""One Cassandra node of our own, its data below its directory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import yaml

from feedmesh_cli.children import Child, start_child
from feedmesh_cli.engines.waiting import until_ready

HOST = "127.0.0.1"
READY_WITHIN_S = 90.0
HEAP = "768m"
_OPTIONS_FRAME = bytes([4, 0, 0, 0, 5, 0, 0, 0, 0])
_SUPPORTED = 6
_OPENED = {
    "java.base": (
        "java.lang", "java.lang.module", "java.io", "java.math", "java.net", "java.nio", "java.util",
        "java.util.concurrent", "java.util.concurrent.atomic", "jdk.internal.loader", "jdk.internal.ref",
        "jdk.internal.reflect", "jdk.internal.math", "jdk.internal.module", "jdk.internal.util.jar", "sun.nio.ch",
    ),
    "java.rmi": ("sun.rmi.transport.tcp", "sun.rmi.registry", "sun.rmi.server"),
    "jdk.management": ("com.sun.management.internal",),
    "jdk.management.jfr": ("jdk.management.jfr",),
    "java.sql": ("java.sql",),
    "java.management": ("com.sun.jmx.remote.security",),
    "java.logging": ("java.util.logging",),
    "java.management.rmi": ("javax.management.remote.rmi",),
}  # fmt: skip
"""Packages that Cassandra reaches into: Java 17 opens them only when told."""
_LOGGING = """<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%date %-5level %logger{0}: %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
"""


class CassandraServer:
    """Start it once. *settings* go into its cassandra.yaml beside and over ours."""

    def __init__(self, java: str, class_path: str, settings: Mapping[str, object] | None = None) -> None:
        self._java = java
        self._more = dict(settings or {})
        self._class_path = class_path
        self._child: Child | None = None
        self._port = 0

    @property
    def child(self) -> Child:
        """The process."""
        if self._child is None:
            raise RuntimeError("this Cassandra was not started")
        return self._child

    async def launch(self, directory: Path, port: int, storage_port: int) -> None:
        """Begin to serve CQL on 127.0.0.1:*port* with what lies in *directory*."""
        self._port = port
        configuration = directory / "conf"
        configuration.mkdir(parents=True, exist_ok=True)
        (configuration / "cassandra.yaml").write_text(
            yaml.safe_dump({**_settings(directory, port, storage_port), **self._more}), encoding="utf-8"
        )
        (configuration / "logback.xml").write_text(_LOGGING, encoding="utf-8")
        opened = [
            f"--add-{verb}={module}/{package}=ALL-UNNAMED"
            for verb in ("opens", "exports")
            for module, packages in _OPENED.items()
            for package in packages
        ]
        command = [
            self._java, f"-Xmx{HEAP}", "-Xms256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss384k",
            "-Xshare:auto", "-XX:+ExitOnOutOfMemoryError", "-Djdk.attach.allowAttachSelf=true", *opened,
            f"-Dcassandra.config={(configuration / 'cassandra.yaml').as_uri()}",
            f"-Dcassandra.storagedir={directory}", f"-Djava.io.tmpdir={configuration}",
            f"-Dlogback.configurationFile={configuration / 'logback.xml'}",
            "-Dcassandra.initial_token=0", "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=1", "-Dcassandra-foreground=yes",
            "-cp", f"{configuration}:{self._class_path}", "org.apache.cassandra.service.CassandraDaemon",
        ]  # fmt: skip
        self._child = await start_child("cassandra", command, directory / "cassandra.log")

    async def ready(self) -> None:
        """Returns once it speaks CQL. Raises CliError."""
        await until_ready(self.child, self._answers, within_s=READY_WITHIN_S, where=f"{HOST}:{self._port}")

    async def stop(self) -> None:
        """End it; it drains what it holds."""
        if self._child is not None:
            await self._child.stop(grace_s=10.0)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(2.0):
                reader, writer = await asyncio.open_connection(HOST, self._port)
                try:
                    writer.write(_OPTIONS_FRAME)
                    head = await reader.readexactly(9)
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False
        return head[4] == _SUPPORTED


def _settings(directory: Path, port: int, storage_port: int) -> dict[str, object]:
    """An acknowledged write is on the disk: the commit log is synced for groups of writes before they are answered."""
    return {
        "cluster_name": "feedmesh",
        "num_tokens": 1,
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "commitlog_sync": "group",
        "commitlog_sync_group_window": "5ms",
        "endpoint_snitch": "SimpleSnitch",
        "seed_provider": [
            {
                "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                "parameters": [{"seeds": f"{HOST}:{storage_port}"}],
            }
        ],
        "listen_address": HOST,
        "rpc_address": HOST,
        "storage_port": storage_port,
        "native_transport_port": port,
        "data_file_directories": [str(directory / "data")],
        "commitlog_directory": str(directory / "commitlog"),
        "saved_caches_directory": str(directory / "saved_caches"),
        "hints_directory": str(directory / "hints"),
        "cdc_raw_directory": str(directory / "cdc_raw"),
        "auto_snapshot": False,
        "memtable_heap_space": "64MiB",
        "memtable_offheap_space": "64MiB",
        "commitlog_segment_size": "16MiB",
        "commitlog_total_space": "256MiB",
        "concurrent_writes": 32,
    }
