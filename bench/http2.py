"""A gRPC client connection that costs as little as Python allows: frames by hand, header blocks encoded once.

The peer is told to keep no header table, so that its header blocks do not depend on each other and the answer "all is
well" is recognised by its bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import hpack
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from foundation.rpc import http2

RESOURCE_EXHAUSTED = 8
_REFILL = 2**29
_NAME = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(b"grpc-status")
_STATUS = bytes([0x80 | len(_NAME)]) + _NAME + b"\x01"
"""What stands in a header block before a status of one digit."""

Done = Callable[[float, int, int], None]
"""Called at the end of a request: its intended time, grpc-status (-1: none), bytes of the answer."""


def header_block(path: str, authority: str, token: str) -> bytes:
    """The header block of a user's gRPC call."""
    return http2.call_block(path, authority) + http2.literal(b"authorization", f"Bearer {token}".encode())


def edge_limit(refusal: bytes) -> int:
    """Requests a minute that the edge allows a user, if it was the edge that refused; 0: a service did, or nobody."""
    headers = dict(hpack.Decoder().decode(refusal, raw=True)) if refusal else {}
    if headers.get(b"x-ratelimit-remaining") != b"0":
        return 0
    return int(headers[b"x-ratelimit-limit"].split(b",")[0])


class Http2Connection(asyncio.Protocol):
    """Sends requests and reports each end; counts what it cannot tell."""

    def __init__(self, done: Done) -> None:
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._next_stream = 1
        self._open: dict[int, list[float]] = {}
        self._consumed = 0
        self._statuses: dict[bytes, int] = {}
        self._first: bytes | None = None
        self.lost = asyncio.Event()
        self.keep_first = False
        self.first_answer = b""
        self.refusal = b""
        """Header block of the last answer RESOURCE_EXHAUSTED."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._write(http2.greeting())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._transport = None
        for begun, _ in self._open.values():
            self._done(begun, -1, 0)
        self._open.clear()
        self.lost.set()

    @property
    def in_flight(self) -> int:
        """Requests without an end."""
        return len(self._open)

    def send(self, block: bytes, body: bytes, intended: float) -> None:
        """One request; *intended* is when it should have been sent."""
        stream = self._next_stream
        self._next_stream += 2
        self._open[stream] = [intended, 0]
        self._write(
            http2.frame(http2.HEADERS, http2.END_HEADERS, stream, block)
            + http2.frame(http2.DATA, http2.END_STREAM, stream, body)
        )

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        end = len(buffer)
        while end - at >= 9:
            size = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            if end - at < 9 + size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9]) & http2.MAX_WINDOW
            start = at + 9
            at = start + size
            if kind == http2.DATA:
                self._consumed += size
                request = self._open.get(stream)
                if request is not None:
                    request[1] += size
                    if self.keep_first and not self.first_answer:
                        self.first_answer = bytes(buffer[start + 5 : at])
                if flags & http2.END_STREAM:
                    self._finish(stream, -1)
            elif kind == http2.HEADERS:
                if flags & http2.END_STREAM:
                    self._finish(stream, self._status(bytes(buffer[start:at]), flags))
            elif kind == http2.RST_STREAM:
                self._finish(stream, -1)
            elif kind == http2.PING and not flags & http2.ACK:
                self._write(http2.frame(http2.PING, http2.ACK, 0, bytes(buffer[start:at])))
            elif kind == http2.SETTINGS and not flags & http2.ACK:
                self._write(http2.frame(http2.SETTINGS, http2.ACK, 0, b""))
        del buffer[:at]
        if self._consumed >= _REFILL:
            self._write(http2.window_update(0, self._consumed))
            self._consumed = 0

    def _finish(self, stream: int, status: int) -> None:
        request = self._open.pop(stream, None)
        if request is not None:
            self._done(request[0], status, int(request[1]))

    def _status(self, block: bytes, flags: int) -> int:
        known = self._statuses.get(block)
        if known is None:
            if flags & (http2.PADDED | http2.PRIORITY):
                return -1
            # A refusal carries what is left of the user's minute: no two blocks are alike, and decoding costs 100 µs.
            at = block.find(_STATUS) + len(_STATUS)
            if at >= len(_STATUS) and block[at : at + 1].isdigit():
                return self._noted(block[at] - 0x30, block)
            headers = dict(hpack.Decoder().decode(block, raw=True))
            known = int(headers.get(b"grpc-status", b"-1"))
            if len(self._statuses) < 10_000:
                self._statuses[block] = known
        return self._noted(known, block)

    def _noted(self, status: int, block: bytes) -> int:
        if status == RESOURCE_EXHAUSTED:
            self.refusal = block
        return status
