"""A service as a process: settings from the environment, signals, a drain that is bounded."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict
from typing import Protocol, TypeVar

import uvloop

from foundation.errors import DomainError
from foundation.events.unpublished import unpublished
from foundation.rpc.server import Server
from foundation.runtime.garbage import settle
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.pages import Page, metrics_page, serving_pages
from foundation.runtime.settings import SettingsInvalid, from_environment
from foundation.telemetry.logging import logger, set_up_logging


class ServiceSettings(Protocol):
    """What the settings of every service hold."""

    @property
    def mesh(self) -> MeshSettings:
        """What all services are told alike."""
        ...


S = TypeVar("S", bound=ServiceSettings)


def run(compose: Callable[[S], AbstractAsyncContextManager[Server]], settings_type: type[S]) -> None:
    """Run the service until SIGTERM or SIGINT, then drain; a second signal ends it at once. Exit 2: wrong settings."""
    set_up_logging()
    try:
        settings = from_environment(settings_type)
    except SettingsInvalid as invalid:
        print(invalid, file=sys.stderr)  # noqa: T201 - there is nobody to log to yet
        raise SystemExit(2) from None
    try:
        uvloop.run(_serve(compose, settings))
    except DomainError as failure:
        # A store or a log that cannot be used, a schema that does not fit, a worker number that somebody else has: the
        # message says how to mend it.
        print(f"cannot serve: {failure.message} ({failure.reason})", file=sys.stderr)  # noqa: T201 - for who started it
        raise SystemExit(1) from None


async def _serve(compose: Callable[[S], AbstractAsyncContextManager[Server]], settings: S) -> None:
    stopping = asyncio.Event()
    watch_signals(stopping)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(compose(settings))
        settle()
        if settings.mesh.status_port:
            await stack.enter_async_context(serving_pages(settings.mesh.status_port, _pages(server)))
        logger.info("serving", address=server.address)
        await stopping.wait()
        logger.info("draining")


def _pages(server: Server) -> Mapping[str, Page]:
    async def status() -> tuple[str, bytes]:
        waiting = {service: asdict(told) for service, told in unpublished().items()}
        return "application/json", json.dumps({"address": server.address, "unpublished": waiting}).encode()

    return {"/status": status, "/metrics": metrics_page}


def watch_signals(stopping: asyncio.Event) -> None:
    """SIGTERM and SIGINT set *stopping*; after the first, each has its default effect again: the second one kills."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopping.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
