"""One poll for all watchers of the process: whose lists have changed?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from feed_svc.model import HeadMark
from feed_svc.ports import Heads
from foundation.background import in_background
from foundation.errors import Exhausted, Unavailable
from foundation.model.clock import Randomness
from foundation.telemetry.logging import logger
from foundation.telemetry.metrics import FEED_WATCHERS

EVERY_S = 1.0
"""Between polls, a fifth more or less, so that processes do not poll in step."""
WAKES_PER_S = 200
"""Watchers woken a second. A celebrity's post changes the lists of many at once: then the next poll waits, not the
readers of this process."""
LAST_WORDS_S = 0.2
"""What watchers get at the end: the native engine closes connections with what it has not written yet."""


class Watcher:
    """One stream's interest: its viewer's timeline and some authors' own posts."""

    __slots__ = ("authors", "mark", "moved", "viewer_id")

    def __init__(self, viewer_id: int) -> None:
        self.viewer_id = viewer_id
        self.authors: frozenset[int] = frozenset()
        self.mark: HeadMark | None = None
        """Of the timeline at the last poll; None: whatever the next one finds is a change."""
        self.moved = asyncio.Event()
        """Set when something changed, and at the end."""


class HeadWatch:
    """Wakes watchers whose lists changed, within two polls. At most *capacity* watch at a time."""

    def __init__(self, heads: Heads, randomness: Randomness, *, capacity: int, every_s: float = EVERY_S) -> None:
        self._heads = heads
        self._randomness = randomness
        self._capacity = capacity
        self._every_s = every_s
        self.watchers: set[Watcher] = set()
        self._author_marks: Mapping[int, HeadMark] = {}
        self._somebody = asyncio.Event()
        self.closing = False
        """True once the service stops: streams end."""

    @contextmanager
    def watching(self, viewer_id: int) -> Iterator[Watcher]:
        """A watcher for as long as the block lasts. Raises Exhausted(TOO_MANY_WATCHERS), Unavailable at the end."""
        if self.closing:
            raise Unavailable("FEED_UNAVAILABLE", "the service stops: another one answers")
        if len(self.watchers) >= self._capacity:
            raise Exhausted("TOO_MANY_WATCHERS", "this service watches as many feeds as it can")
        watcher = Watcher(viewer_id)
        self.watchers.add(watcher)
        self._somebody.set()
        FEED_WATCHERS.inc()
        try:
            yield watcher
        finally:
            FEED_WATCHERS.dec()
            self.watchers.discard(watcher)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Polls while the block lasts; at its end every watcher is woken to see `closing`."""
        async with in_background(self._poll(), name="feed-heads"):
            try:
                yield
            finally:
                self.closing = True
                for watcher in self.watchers:
                    watcher.moved.set()
                if self.watchers:
                    # The ends of the streams are written before the server closes its connections.
                    await asyncio.sleep(LAST_WORDS_S)

    async def _poll(self) -> None:
        while True:
            share = int.from_bytes(self._randomness.token_bytes(2), "little") / 0xFFFF
            await asyncio.sleep(self._every_s * (0.8 + 0.4 * share))
            if not self.watchers:
                self._somebody.clear()
                await self._somebody.wait()
            try:
                moved = await self._look()
            except Exception as failure:  # noqa: BLE001 - the loop must not end: streams would be silent for ever
                logger.error("feed_heads_failed", exc_info=failure)
                continue
            for watcher in moved:
                watcher.moved.set()
                await asyncio.sleep(1 / WAKES_PER_S)

    async def _look(self) -> list[Watcher]:
        watchers = list(self.watchers)
        feeds = {watcher.viewer_id for watcher in watchers}
        authors = frozenset[int]().union(*(watcher.authors for watcher in watchers))
        found = await self._heads.marks(list(feeds), list(authors))
        before = self._author_marks
        changed = {author for author, mark in found.authors.items() if before.get(author) != mark}
        self._author_marks = {author: before[author] for author in authors if author in before} | dict(found.authors)
        moved = []
        for watcher in watchers:
            mark = found.feeds.get(watcher.viewer_id, watcher.mark)
            if mark != watcher.mark or not changed.isdisjoint(watcher.authors):
                watcher.mark = mark
                moved.append(watcher)
        return moved
