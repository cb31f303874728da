"""HTTP/2 as far as a gRPC client needs it (RFC 9113, RFC 7541).

Frames, and header blocks that leave nothing in anybody's table.
"""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
HEADER_BYTES = 9
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
CANCEL = 8
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def window_update(stream: int, more: int) -> bytes:
    """The peer may send *more* bytes; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4))


def greeting() -> bytes:
    """What a client says first: no header table, no push, windows as wide as they go."""
    settings = struct.pack(">HIHIHI", HEADER_TABLE_SIZE, 0, ENABLE_PUSH, 0, INITIAL_WINDOW_SIZE, MAX_WINDOW)
    return PREFACE + frame(SETTINGS, 0, 0, settings) + window_update(0, MAX_WINDOW - DEFAULT_WINDOW)


def literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing: it does not depend on any other and nothing depends on it."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def call_block(path: str, authority: str) -> bytes:
    """What the header block of every gRPC call over plain HTTP/2 begins with."""
    return b"".join(
        [
            b"\x83\x86\x04",
            _length(len(path)),
            path.encode(),
            b"\x01",
            _length(len(authority)),
            authority.encode(),
            literal(b"content-type", b"application/grpc"),
            literal(b"te", b"trailers"),
        ]
    )


def grpc_body(message: bytes) -> bytes:
    """The length-prefixed message, not compressed."""
    return struct.pack(">BI", 0, len(message)) + message


def _length(n: int) -> bytes:
    """An integer with a prefix of 7 bits (RFC 7541 section 5.1)."""
    if n < 127:
        return bytes([n])
    out = bytearray([127])
    n -= 127
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)
