"""Plain HTTP pages about a process, on loopback: its state, its metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

REQUEST_TIMEOUT_S = 5.0
"""For the request's head and for the page."""

Page = Callable[[], Awaitable[tuple[str, bytes]]]
"""Makes (content type, body)."""


async def metrics_page() -> tuple[str, bytes]:
    """All metrics of this process in Prometheus' text format."""
    return CONTENT_TYPE_LATEST, generate_latest()


@asynccontextmanager
async def serving_pages(port: int, pages: Mapping[str, Page]) -> AsyncIterator[None]:
    """Answers GET of each path on 127.0.0.1:*port*. Raises OSError when that is taken."""
    by_path = {path.encode(): page for path, page in pages.items()}
    server = await asyncio.start_server(lambda reader, writer: _answer(reader, writer, by_path), "127.0.0.1", port)
    async with server:
        yield


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pages: Mapping[bytes, Page]) -> None:
    """One GET, then the connection closes."""
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            parts = head.split(b" ", 2)
            page = pages.get(parts[1]) if len(parts) == 3 and parts[0] == b"GET" else None
            status, (kind, body) = ("200 OK", await page()) if page else ("404 Not Found", ("text/plain", b"no page\n"))
            writer.write(
                f"HTTP/1.0 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            )
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
