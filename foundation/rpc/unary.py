"""The client of the hot path's RPC: unary calls over one HTTP/2 connection, in the event loop's own thread.

A call through `grpc.aio` costs its caller's process 200 µs and more of CPU, most of it in threads that fight for the
interpreter; this one costs about 40 (docs/adr/0008). It speaks what such a call needs and no more: no TLS, no
compression, requests up to MAX_REQUEST_BYTES.
"""

from __future__ import annotations

import asyncio
import binascii
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote

import grpc
import hpack
from grpc import aio

from foundation.errors import DomainError, Internal, Unavailable
from foundation.model.clock import SystemClock, SystemRandomness
from foundation.rpc import http2
from foundation.rpc.auth import INTERNAL_HEADER
from foundation.rpc.deadlines import timeout
from foundation.rpc.errors import error_of
from foundation.rpc.throttle import Throttle

MAX_REQUEST_BYTES = 16_000
"""What fits the smallest frame a peer must take, and its initial window."""
MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_WAITING = 1_000
"""Calls that wait for the peer's windows; one more is refused."""
CONNECT_TIMEOUT_S = 1.0
RECONNECT_EVERY_S = 0.05
"""After a failed attempt callers fail at once for so long."""
REFILL = 2**29
"""Bytes received until the peer's window of the connection is opened again."""
LAST_STREAM = 2**30
"""From here on calls go over a new connection: stream ids are not used twice."""
KNOWN_BLOCKS = 1_000


class _Stream:
    """A call in flight."""

    __slots__ = ("answer", "future", "headers")

    def __init__(self, future: asyncio.Future[bytes]) -> None:
        self.future = future
        self.answer = bytearray()
        self.headers: dict[bytes, bytes] = {}


class _Connection(asyncio.Protocol):
    """Frames to answers. Every failure becomes the exception of a call's future."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._name = name
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1
        self._draining = False
        self._window = http2.DEFAULT_WINDOW
        self._stream_window = http2.DEFAULT_WINDOW
        self._max_streams = 100
        self._waiting: deque[tuple[bytes, bytes, asyncio.Future[bytes]]] = deque()
        self._consumed = 0
        self._block: tuple[int, int, bytes] | None = None
        self._known: dict[bytes, dict[bytes, bytes]] = {}
        self.settled: asyncio.Future[None] = loop.create_future()
        """Done when the peer has sent its settings, or is gone."""

    @property
    def usable(self) -> bool:
        """True while new calls may begin here."""
        return self._transport is not None and not self._draining and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # asyncio hands a Transport to a Protocol
        self._write(http2.greeting())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._transport = None
        if not self.settled.done():
            self.settled.set_result(None)
        streams, self._streams = self._streams, {}
        for future in [stream.future for stream in streams.values()] + [future for _, _, future in self._waiting]:
            if not future.done():
                future.set_exception(Unavailable("UNAVAILABLE", f"the connection to {self._name} was lost"))
        self._waiting.clear()

    def begin(self, block: bytes, body: bytes) -> asyncio.Future[bytes]:
        """Send a request, now or when the peer's windows allow; the future brings the answer's message."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        if self._waiting or self._window < len(body) or len(self._streams) >= self._max_streams:
            if len(self._waiting) >= MAX_WAITING:
                future.set_exception(Unavailable("UNAVAILABLE", f"{self._name} takes no more calls"))
            else:
                self._waiting.append((block, body, future))
            return future
        self._send(block, body, future)
        return future

    def cancel(self, future: asyncio.Future[bytes]) -> None:
        """Tell the peer that nobody waits for this answer any more."""
        for stream_id, stream in self._streams.items():
            if stream.future is future:
                self._reset(stream_id)
                return
        self._waiting = deque(entry for entry in self._waiting if entry[2] is not future)

    def close(self) -> None:
        """Hang up; what is in flight fails."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self, block: bytes, body: bytes, future: asyncio.Future[bytes]) -> None:
        stream_id = self._next_id
        self._next_id += 2
        self._draining = self._draining or stream_id >= LAST_STREAM
        self._streams[stream_id] = _Stream(future)
        self._window -= len(body)
        self._write(
            http2.frame(http2.HEADERS, http2.END_HEADERS, stream_id, block)
            + http2.frame(http2.DATA, http2.END_STREAM, stream_id, body)
        )

    def _send_waiting(self) -> None:
        while self._waiting and len(self._streams) < self._max_streams and self._window >= len(self._waiting[0][1]):
            block, body, future = self._waiting.popleft()
            if not future.done():
                self._send(block, body, future)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        end = len(buffer)
        while end - at >= http2.HEADER_BYTES:
            size = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            start = at + http2.HEADER_BYTES
            if size > MAX_ANSWER_BYTES:
                self.close()
                return
            if end < start + size:
                break
            stream_id = int.from_bytes(buffer[at + 5 : start]) & http2.MAX_WINDOW
            at, kind, flags = start + size, buffer[at + 3], buffer[at + 4]
            if kind == http2.DATA:
                self._consumed += size
                self._take_data(stream_id, flags, buffer, start, at)
            else:
                self._take(kind, flags, stream_id, bytes(buffer[start:at]))
        del buffer[:at]
        if self._consumed >= REFILL:
            self._write(http2.window_update(0, self._consumed))
            self._consumed = 0

    def _take_data(self, stream_id: int, flags: int, buffer: bytearray, start: int, end: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if flags & http2.PADDED:
            end -= buffer[start]
            start += 1
        stream.answer += buffer[start:end]
        if len(stream.answer) > MAX_ANSWER_BYTES:
            self._reset(stream_id)
            _fail(stream.future, Internal("INTERNAL", f"{self._name} answered too much"))
        elif flags & http2.END_STREAM:
            self._finish(stream_id)

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == http2.HEADERS:
            if flags & http2.PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & http2.PRIORITY:
                payload = payload[5:]
            self._take_block(stream_id, flags, payload)
        elif kind == http2.CONTINUATION and self._block is not None:
            first_id, first_flags, begun = self._block
            self._take_block(first_id, first_flags | flags & http2.END_HEADERS, begun + payload)
        elif kind == http2.RST_STREAM:
            stream = self._streams.pop(stream_id, None)
            if stream is not None:
                _fail(stream.future, Unavailable("UNAVAILABLE", f"{self._name} gave the call up"))
                self._send_waiting()
        elif kind == http2.WINDOW_UPDATE and stream_id == 0:
            self._window += int.from_bytes(payload) & http2.MAX_WINDOW
            self._send_waiting()
        elif kind == http2.SETTINGS and not flags & http2.ACK:
            self._take_settings(payload)
        elif kind == http2.PING and not flags & http2.ACK:
            self._write(http2.frame(http2.PING, http2.ACK, 0, payload))
        elif kind == http2.GOAWAY:
            self._take_goaway(int.from_bytes(payload[:4]) & http2.MAX_WINDOW)

    def _take_block(self, stream_id: int, flags: int, block: bytes) -> None:
        if not flags & http2.END_HEADERS:
            self._block = (stream_id, flags, block)
            return
        self._block = None
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        headers = self._known.get(block)
        if headers is None:
            try:
                # Our greeting leaves the peer no table, so a block stands for itself and can be known by its bytes.
                headers = {bytes(name): bytes(value) for name, value in hpack.Decoder().decode(block, raw=True)}
            except hpack.HPACKError:
                self.close()
                return
            if len(self._known) < KNOWN_BLOCKS:
                self._known[block] = headers
        stream.headers = stream.headers | headers if stream.headers else headers
        if flags & http2.END_STREAM:
            self._finish(stream_id)

    def _take_settings(self, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            name, value = int.from_bytes(payload[at : at + 2]), int.from_bytes(payload[at + 2 : at + 6])
            if name == http2.MAX_CONCURRENT_STREAMS:
                self._max_streams = value
            elif name == http2.INITIAL_WINDOW_SIZE:
                self._stream_window = value
        if self._stream_window < MAX_REQUEST_BYTES:
            self.close()  # a request would have to wait in mid-body: no peer of this mesh asks for that
            return
        self._write(http2.frame(http2.SETTINGS, http2.ACK, 0, b""))
        if not self.settled.done():
            self.settled.set_result(None)
        self._send_waiting()

    def _take_goaway(self, last_id: int) -> None:
        self._draining = True
        for stream_id in [stream_id for stream_id in self._streams if stream_id > last_id]:
            _fail(self._streams.pop(stream_id).future, Unavailable("UNAVAILABLE", f"{self._name} is going away"))
        self._hang_up_if_drained()

    def _finish(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id)
        if not stream.future.done():
            outcome = _outcome(stream.headers, stream.answer)
            if isinstance(outcome, bytes):
                stream.future.set_result(outcome)
            else:
                stream.future.set_exception(outcome)
        if self._waiting:
            self._send_waiting()
        if self._draining:
            self._hang_up_if_drained()

    def _reset(self, stream_id: int) -> None:
        del self._streams[stream_id]
        self._write(http2.frame(http2.RST_STREAM, 0, stream_id, http2.CANCEL.to_bytes(4)))
        self._send_waiting()

    def _hang_up_if_drained(self) -> None:
        if not self._streams and not self._waiting and self._transport is not None:
            self._transport.close()


class UnaryChannel:
    """Calls to one service of the mesh. Made by unary_channel."""

    def __init__(self, target: str, key: str, throttle: Throttle) -> None:
        self._target = target
        self._throttle = throttle
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._key = http2.literal(INTERNAL_HEADER.encode(), key.encode())
        self._blocks: dict[str, bytes] = {}
        self._connection: _Connection | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._dial_after = 0.0

    async def call(self, path: str, request: bytes, cap_s: float) -> bytes:
        """The answer's bytes of the unary RPC at *path* ("/package.Service/Method") within *cap_s* and the deadline.

        Raises DomainError; ValueError for a request of more than MAX_REQUEST_BYTES.
        """
        if len(request) > MAX_REQUEST_BYTES:
            raise ValueError(f"a request of {len(request)} bytes: use an InternalChannel")
        left_s = timeout(cap_s)
        with self._throttle:
            return await self._call(path, request, left_s)

    async def _call(self, path: str, request: bytes, left_s: float) -> bytes:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + left_s
        try:
            async with asyncio.timeout(left_s):
                connection = self._connection
                if connection is None or not connection.usable:
                    connection = await self._connected()
                left_ms = max(1, int((ends_at - loop.time()) * 1_000))
                block = self._block_of(path) + http2.literal(b"grpc-timeout", b"%dm" % left_ms)
                answer = connection.begin(block, http2.grpc_body(request))
                try:
                    return await answer
                except asyncio.CancelledError:
                    connection.cancel(answer)
                    raise
        except TimeoutError:
            raise _failure(grpc.StatusCode.DEADLINE_EXCEEDED, f"{self._target} did not answer in time") from None

    async def close(self) -> None:
        """Hang up."""
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait([self._dialling])
        if self._connection is not None:
            self._connection.close()
            await asyncio.sleep(0)  # the transport reports its loss in the next turn

    def _block_of(self, path: str) -> bytes:
        block = self._blocks.get(path)
        if block is None:
            block = self._blocks[path] = http2.call_block(path, self._target) + self._key
        return block

    async def _connected(self) -> _Connection:
        """A connection, by one attempt that serves all who wait for it. Raises Unavailable."""
        loop = asyncio.get_running_loop()
        if self._dialling is None and loop.time() >= self._dial_after:
            self._dialling = loop.create_task(self._dial(loop))
        if self._dialling is not None:
            await asyncio.shield(self._dialling)
        if self._connection is None or not self._connection.usable:
            raise Unavailable("UNAVAILABLE", f"{self._target} cannot be reached")
        return self._connection

    async def _dial(self, loop: asyncio.AbstractEventLoop) -> None:
        connection = _Connection(loop, self._target)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_connection(lambda: connection, self._host, self._port)
                await connection.settled
            self._connection = connection
        except OSError:  # TimeoutError is one
            connection.close()
            self._dial_after = loop.time() + RECONNECT_EVERY_S
        finally:
            self._dialling = None


@asynccontextmanager
async def unary_channel(target: str, key: str) -> AsyncIterator[UnaryChannel]:
    """A channel to *target* ("host:port"); it connects at the first call and reconnects by itself."""
    channel = UnaryChannel(target, key, Throttle(target, SystemClock(), SystemRandomness()))
    try:
        yield channel
    finally:
        await channel.close()


def _outcome(headers: dict[bytes, bytes], answer: bytearray) -> bytes | DomainError:
    status = headers.get(b"grpc-status")
    if status == b"0":
        size = int.from_bytes(answer[1:5])
        if len(answer) < 5 or answer[0] or size != len(answer) - 5:
            return Internal("INTERNAL", "the answer is no single message")
        return bytes(memoryview(answer)[5:])
    if status is None or not status.isdigit():
        return Unavailable("UNAVAILABLE", f"no gRPC answer, but HTTP {headers.get(b':status', b'?').decode()}")
    code = _CODES.get(int(status), grpc.StatusCode.UNKNOWN)
    details = headers.get(b"grpc-status-details-bin")
    trailing = aio.Metadata()
    if details:
        trailing.add("grpc-status-details-bin", binascii.a2b_base64(details + b"=" * (-len(details) % 4)))
    return _failure(code, unquote(headers.get(b"grpc-message", b"").decode()), trailing)


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _failure(code: grpc.StatusCode, message: str, trailing: aio.Metadata | None = None) -> DomainError:
    return error_of(aio.AioRpcError(code, aio.Metadata(), trailing or aio.Metadata(), details=message))


def _fail(future: asyncio.Future[bytes], failure: DomainError) -> None:
    if not future.done():
        future.set_exception(failure)
