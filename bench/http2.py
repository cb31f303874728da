"""A gRPC client connection that costs as little as Python allows: frames by hand, header blocks encoded once.

The peer is told to keep no header table, so that its header blocks do not depend on each other and the answer "all is
well" is recognised by its bytes.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_BIG = 2**31 - 1
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_REFILL = 2**29

Done = Callable[[float, int, int], None]
"""Called at the end of a request: its intended time, grpc-status (-1: none), bytes of the answer."""


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(n: int) -> bytes:
    if n < 127:
        return bytes([n])
    out = bytearray([127])
    n -= 127
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def header_block(path: str, authority: str, token: str) -> bytes:
    """The header block of a gRPC call: static indexes and literals, nothing for the peer to remember."""
    fixed = b"\x83\x86" + b"\x04" + _length(len(path)) + path.encode() + b"\x01" + _length(len(authority))
    return b"".join(
        [
            fixed,
            authority.encode(),
            _literal(b"content-type", b"application/grpc"),
            _literal(b"te", b"trailers"),
            _literal(b"authorization", f"Bearer {token}".encode()),
        ]
    )


def grpc_body(message: bytes) -> bytes:
    """The length-prefixed message."""
    return struct.pack(">BI", 0, len(message)) + message


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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, _BIG)
        self._write(PREFACE + _frame(_SETTINGS, 0, 0, settings) + _window(0, _BIG - 65_535))

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
        self._write(_frame(_HEADERS, _END_HEADERS, stream, block) + _frame(_DATA, _END_STREAM, stream, body))

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
            stream = int.from_bytes(buffer[at + 5 : at + 9]) & _BIG
            start = at + 9
            at = start + size
            if kind == _DATA:
                self._consumed += size
                request = self._open.get(stream)
                if request is not None:
                    request[1] += size
                    if self.keep_first and not self.first_answer:
                        self.first_answer = bytes(buffer[start + 5 : at])
                if flags & _END_STREAM:
                    self._finish(stream, -1)
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    self._finish(stream, self._status(bytes(buffer[start:at]), flags))
            elif kind == _RST:
                self._finish(stream, -1)
            elif kind == _PING and not flags & _ACK:
                self._write(_frame(_PING, _ACK, 0, bytes(buffer[start:at])))
            elif kind == _SETTINGS and not flags & _ACK:
                self._write(_frame(_SETTINGS, _ACK, 0, b""))
        del buffer[:at]
        if self._consumed >= _REFILL:
            self._write(_window(0, self._consumed))
            self._consumed = 0

    def _finish(self, stream: int, status: int) -> None:
        request = self._open.pop(stream, None)
        if request is not None:
            self._done(request[0], status, int(request[1]))

    def _status(self, block: bytes, flags: int) -> int:
        known = self._statuses.get(block)
        if known is None:
            if flags & (_PADDED | _PRIORITY):
                return -1
            headers = dict(hpack.Decoder().decode(block, raw=True))
            known = int(headers.get(b"grpc-status", b"-1"))
            if len(self._statuses) < 10_000:
                self._statuses[block] = known
        return known


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _window(stream: int, more: int) -> bytes:
    return _frame(_WINDOW, 0, stream, more.to_bytes(4))
