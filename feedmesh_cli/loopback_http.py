"""One GET over loopback, for the few pages the mesh's own parts serve."""

from __future__ import annotations

import asyncio


async def get(address: str, path: str, *, timeout_s: float = 1.0) -> tuple[int, bytes]:
    """Status and body, as it was sent, of http://*address**path*. Raises OSError when nobody answers in *timeout_s*."""
    host, port = address.rsplit(":", 1)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n".encode())
                answer = await reader.read(-1)
            finally:
                writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body
    except (TimeoutError, ValueError, IndexError) as fault:
        raise ConnectionError(f"http://{address}{path} did not answer properly") from fault
