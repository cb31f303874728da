"""Waits for what becomes true by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(probe: Callable[[], Awaitable[T]], *, timeout_s: float = 10.0, every_s: float = 0.02) -> T:
    """The first true value of *probe*; AssertionError after *timeout_s*."""
    try:
        async with asyncio.timeout(timeout_s):
            while not (value := await probe()):
                await asyncio.sleep(every_s)
            return value
    except TimeoutError:
        raise AssertionError(f"not true within {timeout_s} s") from None
