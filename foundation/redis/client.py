"""A cluster client for the hot path: one connection per node, commands pipelined per node, scripts over many keys.

Keys are placed by CRC16 with {tags}; MOVED and ASK are followed; the topology is read again when it proves wrong.
"""

from __future__ import annotations

import asyncio
import binascii
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import hiredis

from foundation.errors import Internal, Unavailable
from foundation.redis.connection import Connection
from foundation.redis.scripts import Script

Argument = str | bytes | int
Command = tuple[Argument, ...]
"""A command; its key is the second element."""
ScriptItem = tuple[Argument, ...]
"""A key and its arguments."""

SLOTS = 16_384
MAX_REDIRECTS = 3
REFRESH_EVERY_S = 0.2
"""The topology is read at most this often."""
CONNECT_TIMEOUT_S = 0.2


class _Node:
    """One server and the connection to it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.connection: Connection | None = None
        self._connecting = asyncio.Lock()

    async def connected(self) -> Connection:
        """A usable connection. Raises Unavailable."""
        connection = self.connection
        if connection is not None and connection.usable:
            return connection
        async with self._connecting:
            if self.connection is not None and self.connection.usable:
                return self.connection
            loop = asyncio.get_running_loop()
            name = f"{self.address[0]}:{self.address[1]}"
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    _, self.connection = await loop.create_connection(lambda: Connection(loop, name), *self.address)
            except (OSError, TimeoutError):
                raise Unavailable("CACHE_UNAVAILABLE", f"cannot reach the cache node {name}", node=name) from None
            return self.connection

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


class RedisCluster:
    """Made by `connect`."""

    def __init__(self, seeds: Sequence[tuple[str, int]], timeout_s: float) -> None:
        self._seeds = seeds
        self._timeout_s = timeout_s
        self._nodes: dict[tuple[str, int], _Node] = {}
        self._slots: list[_Node] = []
        self._only: _Node | None = None
        self._refreshed_at = 0.0
        self._refreshing = asyncio.Lock()

    async def execute(self, commands: Sequence[Command], *, timeout_s: float | None = None) -> list[Any]:
        """Replies (bytes, int, list or None) in the order of *commands*, pipelined, one write per node.

        Raises Unavailable(CACHE_UNAVAILABLE) if any node did not answer; the commands of other nodes took effect.
        Raises Internal(CACHE_REPLY) for an error reply.
        """
        replies = await self.try_execute(commands, timeout_s=timeout_s)
        for reply in replies:
            if isinstance(reply, Exception):
                raise _translated(reply)
        return replies

    async def try_execute(self, commands: Sequence[Command], *, timeout_s: float | None = None) -> list[Any]:
        """Like execute, with an exception in the place of each reply that failed; never raises for a node."""
        if not commands:
            return []
        timeout_s = timeout_s or self._timeout_s
        only = self._only
        if only is not None:
            replies = await self._send(only, commands, timeout_s)
        else:
            replies = await self._scatter(commands, timeout_s)
        for place, reply in enumerate(replies):
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("MOVED ", "ASK ")):
                replies[place] = await self._follow(commands[place], reply, timeout_s)
        return replies

    async def run(
        self,
        script: Script,
        items: Sequence[ScriptItem],
        *,
        common: Sequence[Argument] = (),
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Run *script* once per node over its share of *items*; its answer, one value per item, in order of *items*.

        The script gets `#common`, the common arguments, then the items one after the other, all of the same width. An
        item whose node failed, or whose key moved, has an exception in its place: repeat it.
        """
        if not items:
            return []
        timeout_s = timeout_s or self._timeout_s
        shares: dict[_Node, list[int]] = defaultdict(list)
        if self._only is not None:
            shares[self._only] = list(range(len(items)))
        else:
            for place, item in enumerate(items):
                shares[self._node_of(item[0])].append(place)
        replies: list[Any] = [None] * len(items)
        answers = await asyncio.gather(
            *(
                self._run_on(node, script, [items[place] for place in places], common, timeout_s)
                for node, places in shares.items()
            )
        )
        moved = False
        for places, answer in zip(shares.values(), answers, strict=True):
            for place, reply in zip(places, answer, strict=True):
                replies[place] = reply
                moved = moved or isinstance(reply, hiredis.ReplyError)
        if moved:
            await self._refresh()
        return replies

    async def flush_all(self) -> None:
        """Empty every node: for tests and `feedmesh down`."""
        for node in self._nodes.values():
            (reply,) = await self._send(node, [("FLUSHALL",)], 5.0)
            if isinstance(reply, Exception):
                raise _translated(reply)

    async def close(self) -> None:
        """Hang up."""
        for node in self._nodes.values():
            node.close()
        await asyncio.sleep(0)

    async def start(self) -> None:
        """Read the topology. Raises Unavailable when no node answers."""
        await self._refresh(required=True)

    async def _send(self, node: _Node, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        pack = hiredis.pack_command
        try:
            connection = node.connection
            if connection is None or not connection.usable:
                connection = await node.connected()
            packed = b"".join([pack(command) for command in commands])
            return await connection.send(packed, len(commands), timeout_s)
        except Unavailable as failure:
            return [failure] * len(commands)

    async def _scatter(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        shares: dict[_Node, list[int]] = defaultdict(list)
        for place, command in enumerate(commands):
            shares[self._node_of(command[1])].append(place)
        answers = await asyncio.gather(
            *(self._send(node, [commands[place] for place in places], timeout_s) for node, places in shares.items())
        )
        replies: list[Any] = [None] * len(commands)
        failed = False
        for places, answer in zip(shares.values(), answers, strict=True):
            for place, reply in zip(places, answer, strict=True):
                replies[place] = reply
                failed = failed or isinstance(reply, Unavailable)
        if failed:
            await self._refresh()
        return replies

    async def _run_on(
        self,
        node: _Node,
        script: Script,
        items: Sequence[ScriptItem],
        common: Sequence[Argument],
        timeout_s: float,
    ) -> list[Any]:
        arguments = (len(common), *common, *(argument for item in items for argument in item))
        (reply,) = await self._send(node, [("EVALSHA", script.sha, 0, *arguments)], timeout_s)
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            (reply,) = await self._send(node, [("EVAL", script.source, 0, *arguments)], timeout_s)
        if isinstance(reply, list) and len(reply) == len(items):
            return reply
        if isinstance(reply, Exception):
            return [reply] * len(items)
        return [Internal("CACHE_REPLY", f"script {script.name} answered {len(items)} items wrongly")] * len(items)

    async def _follow(self, command: Command, redirect: Exception, timeout_s: float) -> Any:
        reply: Any = redirect
        for _ in range(MAX_REDIRECTS):
            kind, _, where = str(reply).split(" ", 2)
            host, _, port = where.rpartition(":")
            node = self._node_at((host or self._seeds[0][0], int(port)))
            if kind == "ASK":
                _, reply = await self._send(node, [("ASKING",), command], timeout_s)
            else:
                await self._refresh()
                (reply,) = await self._send(node, [command], timeout_s)
            if not (isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("MOVED ", "ASK "))):
                return reply
        return Unavailable("CACHE_UNAVAILABLE", "the cache keeps moving a key")

    def _node_of(self, key: Argument) -> _Node:
        return self._slots[slot_of_key(key)]

    def _node_at(self, address: tuple[str, int]) -> _Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = _Node(address)
        return node

    async def _refresh(self, *, required: bool = False) -> None:
        loop = asyncio.get_running_loop()
        if self._refreshing.locked() and not required:
            return
        async with self._refreshing:
            if not required and loop.time() - self._refreshed_at < REFRESH_EVERY_S:
                return
            self._refreshed_at = loop.time()
            failure: Exception = Unavailable("CACHE_UNAVAILABLE", "no cache node answered")
            for address in [*self._nodes, *self._seeds]:
                (reply,) = await self._send(self._node_at(address), [("CLUSTER", "SLOTS")], self._timeout_s)
                if isinstance(reply, list) and reply:
                    self._adopt(reply, address[0])
                    return
                if isinstance(reply, Exception):
                    failure = reply
            if required:
                raise _translated(failure)

    def _adopt(self, ranges: list[Any], asked_host: str) -> None:
        slots: list[_Node | None] = [None] * SLOTS
        primaries = set()
        for start, end, primary, *_ in ranges:
            node = self._node_at(((primary[0] or b"").decode() or asked_host, primary[1]))
            primaries.add(node)
            slots[start : end + 1] = [node] * (end + 1 - start)
        fallback = next(iter(primaries))
        self._slots = [node or fallback for node in slots]
        self._only = fallback if len(primaries) == 1 else None


def slot_of_key(key: Argument) -> int:
    """The cluster slot of *key*: CRC16 of what stands between the first { and the next }, or of all of it."""
    raw = key if isinstance(key, bytes) else str(key).encode()
    start = raw.find(b"{")
    if start >= 0:
        end = raw.find(b"}", start + 1)
        if end > start + 1:
            raw = raw[start + 1 : end]
    return binascii.crc_hqx(raw, 0) % SLOTS


async def connect(addresses: Sequence[tuple[str, int]], *, timeout_s: float = 0.2) -> RedisCluster:
    """A client of the cluster that the nodes at *addresses* belong to. Raises Unavailable when none answers."""
    cluster = RedisCluster(addresses, timeout_s)
    await cluster.start()
    return cluster


def _translated(failure: Exception) -> Exception:
    if isinstance(failure, hiredis.ReplyError):
        if str(failure).startswith(("CLUSTERDOWN", "LOADING", "TRYAGAIN", "READONLY")):
            return Unavailable("CACHE_UNAVAILABLE", str(failure))
        return Internal("CACHE_REPLY", str(failure))
    return failure
