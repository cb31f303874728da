"""The one Python process that holds every service of the embedded mesh: `python -m feedmesh_cli.embedded`.

It reads its configuration as one JSON line from stdin, so that no key is in a file or on a command line, and ends when
stdin does: whoever started it has gone. GET /status tells readiness and lag, GET /metrics the metrics of all services.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import uvloop
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import fanout_worker.composition
import fanout_worker.settings
import feed_svc.composition
import feed_svc.settings
import graph_svc.composition
import graph_svc.settings
import post_svc.composition
import post_svc.settings
import rank_svc.composition
import rank_svc.settings
from feedmesh_cli.embedded_config import EmbeddedConfig
from foundation.events.port import (
    GRAPH_BY_FOLLOWEE,
    GRAPH_BY_FOLLOWER,
    POSTS_CREATED,
    POSTS_UPDATED,
    EventLog,
)
from foundation.rpc.server import Server
from foundation.runtime.garbage import settle
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_log
from foundation.telemetry.logging import set_up_logging

CONSUMER_GROUPS: Mapping[str, Sequence[str]] = {
    "graph.followers": (GRAPH_BY_FOLLOWEE,),
    "fanout.backfill": (GRAPH_BY_FOLLOWER,),
    "fanout.posts": (POSTS_CREATED,),
    "rank.features": (POSTS_CREATED, POSTS_UPDATED),
}
"""Groups and their topics; a group that feeds another comes first, so that all zero means nothing is on its way."""

REQUEST_LINE_TIMEOUT_S = 5.0

Page = Callable[[], Awaitable[tuple[str, bytes]]]


def main() -> None:
    """Runs until SIGTERM, SIGINT or the end of stdin."""
    line = sys.stdin.buffer.readline()
    if not line:
        return
    set_up_logging()
    uvloop.run(_run(EmbeddedConfig.from_line(line)))


async def _run(config: EmbeddedConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(sys.stdin.fileno(), stop.set)
    try:
        async with all_services(config):
            settle()
            await stop.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())


@asynccontextmanager
async def all_services(config: EmbeddedConfig) -> AsyncIterator[Mapping[str, Server]]:
    """Every service on its port, started in the order of need, and the page that tells about them."""
    data = Path(config.data)
    addresses = {name: f"127.0.0.1:{port}" for name, port in config.ports.items()}
    base = MeshSettings(
        redis=config.redis,
        log_url=f"sqlite:///{data / 'log.db'}",
        jwks_path=config.jwks_path,
        internal_key=config.internal_key,
        engine=config.engine,  # type: ignore[arg-type]
        graph_svc=addresses["graph_svc"],
        post_svc=addresses["post_svc"],
        rank_svc=addresses["rank_svc"],
    )

    def mesh(name: str) -> MeshSettings:
        return replace(base, port=config.ports[name])

    key = config.cursor_key
    starting: dict[str, AbstractAsyncContextManager[Server]] = {
        "graph_svc": graph_svc.composition.compose(
            graph_svc.settings.Settings(
                mesh=mesh("graph_svc"), database_url=f"sqlite:///{data / 'graph.db'}", cursor_key=key
            )
        ),
        "post_svc": post_svc.composition.compose(
            post_svc.settings.Settings(
                mesh=mesh("post_svc"), database_url=f"sqlite:///{data / 'posts.db'}", cursor_key=key
            )
        ),
        "rank_svc": rank_svc.composition.compose(
            rank_svc.settings.Settings(mesh=mesh("rank_svc"), model_path=config.model_path)
        ),
        "fanout_worker": fanout_worker.composition.compose(fanout_worker.settings.Settings(mesh=mesh("fanout_worker"))),
        "feed_svc": feed_svc.composition.compose(feed_svc.settings.Settings(mesh=mesh("feed_svc"), cursor_key=key)),
    }
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_log(base))
        servers = {name: await stack.enter_async_context(service) for name, service in starting.items()}
        await stack.enter_async_context(_pages(config.status_port, log, servers))
        yield servers


@asynccontextmanager
async def _pages(port: int, log: EventLog, servers: Mapping[str, Server]) -> AsyncIterator[None]:
    async def status() -> tuple[str, bytes]:
        lag = {group: await log.lag(group, topics) for group, topics in CONSUMER_GROUPS.items()}
        page = {"services": {name: server.address for name, server in servers.items()}, "lag": lag}
        return "application/json", json.dumps(page).encode()

    async def metrics() -> tuple[str, bytes]:
        return CONTENT_TYPE_LATEST, generate_latest()

    pages: dict[bytes, Page] = {b"/status": status, b"/metrics": metrics}
    server = await asyncio.start_server(lambda reader, writer: _answer(reader, writer, pages), "127.0.0.1", port)
    async with server:
        yield


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pages: Mapping[bytes, Page]) -> None:
    """One GET, then the connection closes."""
    try:
        async with asyncio.timeout(REQUEST_LINE_TIMEOUT_S):
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


if __name__ == "__main__":
    main()
