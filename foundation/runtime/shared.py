"""One instance of a resource per process, however many services of the process use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Entry:
    loop: asyncio.AbstractEventLoop
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    resource: Any = None
    manager: AbstractAsyncContextManager[Any] | None = None


_entries: dict[tuple[str, str], _Entry] = {}


@asynccontextmanager
async def shared(kind: str, address: str, open_it: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
    """The process's resource of *kind* at *address*: opened for its first user, closed after its last."""
    key = (kind, address)
    loop = asyncio.get_running_loop()
    entry = _entries.get(key)
    if entry is None or entry.loop is not loop:
        entry = _entries[key] = _Entry(loop)
    async with entry.lock:
        if entry.users == 0:
            entry.manager = open_it()
            entry.resource = await entry.manager.__aenter__()
            _entries[key] = entry  # it may have been let go of while this user waited
        entry.users += 1
    try:
        yield entry.resource
    finally:
        async with entry.lock:
            entry.users -= 1
            if entry.users == 0 and entry.manager is not None:
                await entry.manager.__aexit__(None, None, None)
                entry.manager = None
                if _entries.get(key) is entry:
                    del _entries[key]
