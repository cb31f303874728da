"""Tell a viewer how many posts are new, for as long as they listen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

from feed_svc.flows.watch_heads import HeadWatch, Watcher
from feed_svc.model import News
from feed_svc.stages.newer import COUNTED
from foundation.errors import DeadlineExceeded, Unavailable
from foundation.model.clock import Clock

HEARTBEAT_S = 15.0
"""A message at least so often; the edge cuts streams that say nothing for 60 s."""
RECOUNT_S = 60.0
"""Counted again at least so often: for posts that were hidden since, and for authors beyond AUTHORS_WATCHED."""
COUNT_WITHIN_S = 2.0
COUNTS_AT_ONCE = 16
"""Counts of all watchers of the process that go on at a time: many who connect at once wait for each other, and leave
the room of the services behind to those who read."""
AUTHORS_WATCHED = 200
"""Pulled authors polled for one viewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchFeed:
    """The number at once, at every change, and as a heartbeat; ends after *life_s* or when the service stops.

    Whatever moves in a list only causes a count: what a viewer may not see is never told, not even as a number.
    """

    count: Callable[[int, int], Awaitable[News]]
    """CountNewer: viewer, since_id."""
    heads: HeadWatch
    clock: Clock
    life_s: float
    heartbeat_s: float = HEARTBEAT_S
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(COUNTS_AT_ONCE))

    async def __call__(self, viewer_id: int, *, since_id: int) -> AsyncGenerator[News, None]:
        with self.heads.watching(viewer_id) as watcher:
            ends_at = self.clock.monotonic() + self.life_s
            async with self.gate:
                told = await self.count(viewer_id, since_id)
            counted_at = self.clock.monotonic()
            watcher.authors = _authors(viewer_id, told)
            yield told
            beat_at = self.clock.monotonic() + self.heartbeat_s
            while True:
                moved = await _moved(watcher, min(beat_at, ends_at) - self.clock.monotonic())
                now = self.clock.monotonic()
                if self.heads.closing or now >= ends_at:
                    return
                news = told
                stale = now - counted_at >= RECOUNT_S or (told.reasons and now >= beat_at)
                if stale or (moved and told.new_posts < COUNTED):
                    news = await self._counted(watcher, since_id) or told
                    counted_at = now
                    watcher.authors = _authors(viewer_id, news)
                if now >= beat_at or (news.new_posts, news.reasons) != (told.new_posts, told.reasons):
                    yield news
                    beat_at = self.clock.monotonic() + self.heartbeat_s
                told = news

    async def _counted(self, watcher: Watcher, since_id: int) -> News | None:
        """None when it could not be told this time: the next poll causes another try."""
        try:
            async with self.gate, asyncio.timeout(COUNT_WITHIN_S):
                return await self.count(watcher.viewer_id, since_id)
        except (Unavailable, DeadlineExceeded, TimeoutError):
            watcher.mark = None
            return None


def _authors(viewer_id: int, news: News) -> frozenset[int]:
    """One's own posts, which are in their list before they are pushed, and pulled authors: the same for everybody."""
    return frozenset([viewer_id, *sorted(news.pulled)[:AUTHORS_WATCHED]])


async def _moved(watcher: Watcher, within_s: float) -> bool:
    try:
        async with asyncio.timeout(max(0.0, within_s)):
            await watcher.moved.wait()
    except TimeoutError:
        return False
    watcher.moved.clear()
    return True
