"""A service as a process: settings from the environment, signals, a drain that is bounded."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import uvloop

from foundation.rpc.server import Server
from foundation.runtime.garbage import settle
from foundation.runtime.settings import SettingsInvalid, from_environment
from foundation.telemetry.logging import logger, set_up_logging

S = TypeVar("S")


def run(compose: Callable[[S], AbstractAsyncContextManager[Server]], settings_type: type[S]) -> None:
    """Run the service until SIGTERM or SIGINT, then drain; a second signal ends it at once. Exit 2: wrong settings."""
    set_up_logging()
    try:
        settings = from_environment(settings_type)
    except SettingsInvalid as invalid:
        print(invalid, file=sys.stderr)  # noqa: T201 - there is nobody to log to yet
        raise SystemExit(2) from None
    uvloop.run(_serve(compose, settings))


async def _serve(compose: Callable[[S], AbstractAsyncContextManager[Server]], settings: S) -> None:
    stopping = asyncio.Event()
    watch_signals(stopping)
    async with compose(settings) as server:
        settle()
        logger.info("serving", address=server.address)
        await stopping.wait()
        logger.info("draining")


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
