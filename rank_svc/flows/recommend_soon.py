"""Recommendations on demand: viewers wait in a bounded queue, each once, and are served one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from foundation.background import in_background
from foundation.errors import DomainError
from foundation.model.clock import Clock
from foundation.telemetry.logging import logger

MAX_WAITING = 1_000
SHARE = 0.1
"""Of the time, at most: ranking on the same event loop goes first."""


class RecommendSoon:
    """Does *refresh* for who waits; between two it rests."""

    def __init__(self, refresh: Callable[[int], Awaitable[None]], clock: Clock) -> None:
        self._refresh = refresh
        self._clock = clock
        self._waiting: dict[int, None] = {}
        self._wished = asyncio.Event()

    def __call__(self, viewer_id: int) -> bool:
        """False when too many wait."""
        if len(self._waiting) >= MAX_WAITING and viewer_id not in self._waiting:
            return False
        self._waiting[viewer_id] = None
        self._wished.set()
        return True

    def running(self) -> AbstractAsyncContextManager[None]:
        """Who waits is served while this is open."""
        return in_background(self._serve(), name="recommendations")

    async def _serve(self) -> None:
        while True:
            await self._wished.wait()
            self._wished.clear()
            while self._waiting:
                viewer_id = next(iter(self._waiting))
                began = self._clock.monotonic()
                try:
                    await self._refresh(viewer_id)
                except (DomainError, TimeoutError) as failure:
                    logger.warning("recommendations_not_made", viewer_id=viewer_id, error=repr(failure))
                except Exception:  # noqa: BLE001 - the task outlives every defect
                    logger.exception("recommendations_failed", viewer_id=viewer_id)
                finally:
                    self._waiting.pop(viewer_id, None)
                await asyncio.sleep((self._clock.monotonic() - began) * (1 / SHARE - 1))
