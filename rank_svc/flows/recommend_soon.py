"""Recommendations on demand: viewers wait in a bounded queue, each once, and are served one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from foundation.errors import DomainError
from foundation.telemetry.logging import logger
from rank_svc.flows.refresh_recommendations import RefreshRecommendations

MAX_WAITING = 1_000


class RecommendSoon:
    """One at a time: ranking on the same event loop goes first."""

    def __init__(self, refresh: RefreshRecommendations) -> None:
        self._refresh = refresh
        self._waiting: dict[int, None] = {}
        self._wished = asyncio.Event()

    def __call__(self, viewer_id: int) -> bool:
        """False when too many wait."""
        if len(self._waiting) >= MAX_WAITING and viewer_id not in self._waiting:
            return False
        self._waiting[viewer_id] = None
        self._wished.set()
        return True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Who waits is served while this is open."""
        serving = asyncio.create_task(self._serve())
        try:
            yield
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving

    async def _serve(self) -> None:
        while True:
            await self._wished.wait()
            self._wished.clear()
            while self._waiting:
                viewer_id = next(iter(self._waiting))
                try:
                    await self._refresh(viewer_id)
                except (DomainError, TimeoutError) as failure:
                    logger.warning("recommendations_not_made", viewer_id=viewer_id, error=repr(failure))
                finally:
                    self._waiting.pop(viewer_id, None)
