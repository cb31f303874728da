"""Faults between processes: links that a test slows, silences, garbles or takes down, in front of what really runs.

A Link knows bytes alone. A RedisDoor knows commands: several of them before one Valkey look like a cluster of as many
nodes, and a fault may be of some keys only. An RpcLink knows calls: an answer may be an error, or nonsense.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import grpc
import hiredis
from grpc import aio

from foundation.redis.slots import SLOTS

HOST = "127.0.0.1"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_LINGER_NOT = struct.pack("ii", 1, 0)


class Fault(Enum):
    """What goes wrong on the way."""

    NONE = "none"
    SLOW = "slow"
    """Every answer comes later, by the link's latency."""
    SILENT = "silent"
    """Nothing gets through until the fault ends; then all of it does, as after SIGCONT."""
    RESET = "reset"
    """Connections are reset, new ones at once."""
    CUT = "cut"
    """Half of an answer comes, then the connection ends."""
    GARBAGE = "garbage"
    """Answers are other bytes."""
    DOWN = "down"
    """Nobody listens."""


class Conversation:
    """One connection through a link, for links that understand what passes."""

    def asked(self, data: bytes) -> None:
        """What the near side sent."""

    async def answered(self, data: bytes) -> bytes:
        """What the near side gets instead of what the far side sent."""
        return data


class Link:
    """A way to one port, whole until it is told to break."""

    def __init__(self, target: tuple[str, int] | Path, converse: Callable[[], Conversation] = Conversation) -> None:
        """To a TCP port, or to a Unix socket."""
        self.port = 0
        self.fault = Fault.NONE
        self._target = target
        self._converse = converse
        self._latency_s = 0.0
        self._changed = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._hang_up()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def breaks(self, fault: Fault, *, latency_s: float = 0.0) -> None:
        """*fault* from now on, also on connections that are open."""
        self.fault, self._latency_s = fault, latency_s
        self._changed.set()
        self._changed = asyncio.Event()
        if fault is Fault.DOWN:
            await self._hang_up()
        elif self._listener is None:
            await self._listen()
        if fault is Fault.RESET:
            self._reset_all()

    async def heals(self) -> None:
        await self.breaks(Fault.NONE)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _hang_up(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._reset_all()

    def _reset_all(self) -> None:
        for writer in self._open:
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._open.add(writer)
        try:
            if self.fault is not Fault.RESET:
                if isinstance(self._target, Path):
                    far_reader, far_writer = await asyncio.open_unix_connection(self._target)
                else:
                    far_reader, far_writer = await asyncio.open_connection(*self._target)
                self._open.add(far_writer)
                try:
                    await self._pass(reader, writer, far_reader, far_writer)
                finally:
                    self._open.discard(far_writer)
                    _reset(far_writer)
        except OSError:
            pass  # one of the two went away: so does the other
        finally:
            _reset(writer)
            self._open.discard(writer)
            self._serving.discard(task)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        conversation = self._converse()
        ways = [
            asyncio.create_task(self._there(reader, far_writer, conversation)),
            asyncio.create_task(self._back(far_reader, writer, conversation)),
        ]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _there(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: Conversation
    ) -> None:
        while data := await reader.read(65_536):
            await self._let_through()
            conversation.asked(data)
            writer.write(data)
            await writer.drain()

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: Conversation
    ) -> None:
        while data := await reader.read(65_536):
            await self._let_through()
            if self.fault is Fault.SLOW:
                await asyncio.sleep(self._latency_s)
            if self.fault is Fault.CUT:
                writer.write(data[: len(data) // 2])
                await writer.drain()
                return
            if self.fault is Fault.GARBAGE:
                writer.write(bytes(byte ^ 0x5A for byte in data))
            else:
                writer.write(await conversation.answered(data))
            await writer.drain()

    async def _let_through(self) -> None:
        while self.fault is Fault.SILENT:
            await self._changed.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0 and raw.family == socket.AF_INET:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()


class Said(Enum):
    """What a node says of some of its keys."""

    NOTHING = "nothing"
    """Nor of what was asked after them, until the fault ends."""
    LOADING = "loading"
    """It cannot answer now."""
    NONSENSE = "nonsense"
    """Values of no layout that anybody knows."""
    NOT_SERVED = "not served"
    """Their slots have no node."""


_ERRORS = {
    Said.LOADING: hiredis.ReplyError("LOADING Valkey is loading the dataset in memory"),
    Said.NOT_SERVED: hiredis.ReplyError("CLUSTERDOWN Hash slot not served"),
}
_NONSENSE = b"\xff\xfe nonsense"


class RedisDoor(Link):
    """A way to a Valkey that clients take for a node of a cluster."""

    def __init__(self, target: tuple[str, int], topology: Callable[[], list[Any]]) -> None:
        super().__init__(target, lambda: _Commands(self, topology))
        self.families: tuple[bytes, ...] = ()
        self.said = Said.NOTHING

    async def says(self, said: Said, *families: str) -> None:
        """From now on the node says *said* of keys that begin with one of *families*, and is well otherwise."""
        await self.heals()
        self.said, self.families = said, tuple(family.encode() for family in families)

    async def breaks(self, fault: Fault, *, latency_s: float = 0.0) -> None:
        self.families = ()
        await super().breaks(fault, latency_s=latency_s)

    async def change(self) -> None:
        """Until the fault is another."""
        await self._changed.wait()


class _Commands(Conversation):
    """Replies belong to commands by their order."""

    def __init__(self, door: RedisDoor, topology: Callable[[], list[Any]]) -> None:
        self._door = door
        self._topology = topology
        self._commands: deque[list[bytes]] = deque()
        self._asked = hiredis.Reader()
        self._answered = hiredis.Reader()

    def asked(self, data: bytes) -> None:
        self._asked.feed(data)
        while (command := self._asked.gets()) is not False:
            self._commands.append(command)

    async def answered(self, data: bytes) -> bytes:
        self._answered.feed(data)
        told: list[bytes] = []
        while (reply := self._answered.gets()) is not False:
            told.append(encode_reply(await self._instead(self._commands.popleft(), reply)))
        return b"".join(told)

    async def _instead(self, command: list[bytes], reply: Any) -> Any:
        if command[:2] == [b"CLUSTER", b"SLOTS"]:
            return self._topology()
        door = self._door
        if not any(part.startswith(door.families) for part in command[1:]):
            return reply
        while door.said is Said.NOTHING and door.families:
            await door.change()
        if not door.families:
            return reply
        return _nonsense(reply) if door.said is Said.NONSENSE else _ERRORS[door.said]


def _nonsense(reply: Any) -> Any:
    if isinstance(reply, list):
        return [_nonsense(part) for part in reply] or [_NONSENSE]
    return _NONSENSE


def encode_reply(reply: Any) -> bytes:
    """A reply as a node would write it."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, Exception):
        return b"-%b\r\n" % str(reply).encode()
    return b"*%d\r\n%b" % (len(reply), b"".join(map(encode_reply, reply)))


@asynccontextmanager
async def redis_doors(
    target: tuple[str, int], roles: Mapping[str, Sequence[int]]
) -> AsyncIterator[dict[str, RedisDoor]]:
    """Doors to one Valkey: a node for each role with its slots, and the node `others` with the rest."""
    role_of = {slot: role for role, slots in roles.items() for slot in slots}
    doors: dict[str, RedisDoor] = {}

    def topology() -> list[Any]:
        ranges: list[Any] = []
        for role, slots in groupby(range(SLOTS), lambda slot: role_of.get(slot, "others")):
            first, *rest = slots
            node = [HOST.encode(), doors[role].port, role.encode().ljust(40, b"0")]
            ranges.append([first, rest[-1] if rest else first, node])
        return ranges

    async with AsyncExitStack() as stack:
        for role in (*roles, "others"):
            doors[role] = RedisDoor(target, topology)
            await stack.enter_async_context(doors[role])
        yield doors


Answer = Callable[[bytes], bytes]
"""What a caller gets instead of an encoded answer."""


class RpcLink:
    """A way to the gRPC server of a service: `wire` breaks as a link does, `answers` as a service that is unwell."""

    def __init__(self, target: str) -> None:
        self.wire: Link
        self._target = target
        self._instead: dict[str, Answer] = {}
        self._failing: set[str] = set()
        self._hanging: set[str] = set()
        self._stack = AsyncExitStack()
        self._channel: aio.Channel

    @property
    def address(self) -> str:
        return self.wire.address

    async def __aenter__(self) -> Self:
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        self._channel = await self._stack.enter_async_context(aio.insecure_channel(self._target, options=options))
        server = aio.server(options=options)
        server.add_generic_rpc_handlers([_Relay(self._relay)])
        port = server.add_insecure_port(f"{HOST}:0")
        await server.start()
        self._stack.push_async_callback(server.stop, 0)
        self.wire = await self._stack.enter_async_context(Link((HOST, port)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def fails(self, *methods: str) -> None:
        """These methods (all for none) answer UNAVAILABLE."""
        self._failing = {*methods} or {""}

    def hangs(self, *methods: str) -> None:
        """These methods (all for none) never answer."""
        self._hanging = {*methods} or {""}

    def answers(self, method: str, instead: Answer) -> None:
        """Callers of *method* get *instead* of the answer."""
        self._instead[method] = instead

    async def heals(self) -> None:
        self._instead.clear()
        self._failing.clear()
        self._hanging.clear()
        await self.wire.heals()

    async def _relay(self, path: str, request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        method = path.rpartition("/")[2]
        if self._hanging & {"", method}:
            await asyncio.Event().wait()
        if self._failing & {"", method}:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "out of order")
        metadata = tuple((key, value) for key, value in context.invocation_metadata() or () if key.startswith("x-"))
        call = self._channel.unary_unary(path)
        try:
            answer: bytes = await call(request, metadata=metadata, timeout=context.time_remaining())
        except aio.AioRpcError as failure:
            trailing = tuple(failure.trailing_metadata() or ())
            await context.abort(failure.code(), failure.details() or "", trailing)
        instead = self._instead.get(method)
        return instead(answer) if instead is not None else answer


class _Relay(grpc.GenericRpcHandler):
    def __init__(self, relay: Callable[[str, bytes, Any], Any]) -> None:
        self._relay = relay

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method

        async def behave(request: bytes, context: Any) -> bytes:
            answer: bytes = await self._relay(path, request, context)
            return answer

        return grpc.unary_unary_rpc_method_handler(behave)
