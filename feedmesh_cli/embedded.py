"""The one Python process that holds every service of the embedded mesh: `python -m feedmesh_cli.embedded`.

It reads its configuration as one JSON line from stdin, so that no key is in a file or on a command line, and ends when
stdin does: whoever started it has gone. GET /status tells readiness, what waits to be published and the lag, GET
/metrics the metrics of all services.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import uvloop

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
from feedmesh_cli.status_page import status_page
from foundation.events.unpublished import Unpublished, unpublished
from foundation.rpc.server import Server
from foundation.runtime.garbage import settle
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.pages import metrics_page, serving_pages
from foundation.runtime.resources import open_log
from foundation.runtime.settings import changed
from foundation.telemetry.logging import set_up_logging


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
        lease_name=config.lease_name,
        engine=config.engine,  # type: ignore[arg-type]
        graph_svc=addresses["graph_svc"],
        post_svc=addresses["post_svc"],
        rank_svc=addresses["rank_svc"],
    )

    def mesh(name: str) -> MeshSettings:
        return replace(base, port=config.ports[name])

    key = config.cursor_key
    of_graph = graph_svc.settings.Settings(
        mesh=mesh("graph_svc"), database_url=f"sqlite:///{data / 'graph.db'}", cursor_key=key
    )
    of_posts = post_svc.settings.Settings(
        mesh=mesh("post_svc"), database_url=f"sqlite:///{data / 'posts.db'}", cursor_key=key
    )
    of_rank = rank_svc.settings.Settings(
        mesh=mesh("rank_svc"), model_path=config.model_path, recommendations=config.recommendations
    )
    of_worker = fanout_worker.settings.Settings(mesh=mesh("fanout_worker"))
    of_feed = feed_svc.settings.Settings(
        mesh=mesh("feed_svc"),
        database_url=f"sqlite:///{data / 'feed.db'}",
        cursor_key=key,
        recommendations=config.recommendations,
    )
    starting: dict[str, AbstractAsyncContextManager[Server]] = {
        "graph_svc": graph_svc.composition.compose(changed(of_graph, config.changes)),
        "post_svc": post_svc.composition.compose(changed(of_posts, config.changes)),
        "rank_svc": rank_svc.composition.compose(changed(of_rank, config.changes)),
        "fanout_worker": fanout_worker.composition.compose(changed(of_worker, config.changes)),
        "feed_svc": feed_svc.composition.compose(changed(of_feed, config.changes)),
    }
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_log(base))
        servers = {name: await stack.enter_async_context(service) for name, service in starting.items()}

        async def waiting() -> Mapping[str, Unpublished]:
            return unpublished()

        async def status() -> tuple[str, bytes]:
            return await status_page({name: server.address for name, server in servers.items()}, waiting, log)

        pages = {"/status": status, "/metrics": metrics_page}
        await stack.enter_async_context(serving_pages(config.status_port, pages))
        yield servers


if __name__ == "__main__":
    main()
