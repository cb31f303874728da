"""Timelines of authors whom very many read, kept in the process for a moment: one hot author is not one hot key.

However many readers ask, this process reads an author's timeline once per REFRESH_AFTER_S: who asks while it is read
waits for that read, and who asks for one that will soon be too old gets it, while a read for those who come later is
under way. What is kept are ids alone; cards, edges and blocks are read in each request.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass

from feed_svc.adapters.author_posts import part_below
from feed_svc.model import FEED_DEPTH_MS
from feed_svc.ports import AuthorPosts
from foundation.model.clock import Clock
from foundation.model.ids import MAX_ID, id_at
from foundation.timeline.port import CAPACITY as TIMELINE_CAPACITY
from foundation.timeline.port import Timeline

TTL_S = 2.0
"""How old an answer may be: a post of such an author shows so much later at most."""
REFRESH_AFTER_S = 1.0
"""Age from which an answer is read again in the background."""
CAPACITY = 1_000
"""Authors kept, 20 KB each at most; the least recently used goes first."""

Load = Callable[[Sequence[int]], Awaitable[Mapping[int, Timeline]]]
"""Timelines of authors; one without an entry could not be read. Never raises."""


@dataclass(slots=True, frozen=True)
class _Entry:
    timeline: Timeline
    loaded_at: float


class HotTimelines:
    """The cache. To be closed: reads in the background belong to it."""

    def __init__(self, load: Load, clock: Clock, *, capacity: int = CAPACITY) -> None:
        self._load = load
        self._clock = clock
        self._capacity = capacity
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._loading: dict[int, asyncio.Task[Mapping[int, Timeline]]] = {}
        self._tasks: set[asyncio.Task[Mapping[int, Timeline]]] = set()

    async def get(self, author_ids: Sequence[int]) -> Mapping[int, Timeline]:
        """Timelines of at most TTL_S age; no entry for an author who could not be read."""
        now = self._clock.monotonic()
        found: dict[int, Timeline] = {}
        absent: list[int] = []
        ageing: list[int] = []
        for author_id in author_ids:
            entry = self._entries.get(author_id)
            if entry is None or now - entry.loaded_at >= TTL_S:
                absent.append(author_id)
                continue
            found[author_id] = entry.timeline
            self._entries.move_to_end(author_id)
            if now - entry.loaded_at >= REFRESH_AFTER_S:
                ageing.append(author_id)
        self._read(ageing)
        self._read(absent)
        for reading in {self._loading[author_id] for author_id in absent}:
            # Shielded: others wait for the same read, whoever of them gives up.
            answer = await asyncio.shield(reading)
            found |= {author_id: answer[author_id] for author_id in absent if author_id in answer}
        return found

    async def close(self) -> None:
        """Give up what is being read."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _read(self, author_ids: Sequence[int]) -> None:
        wanted = [author_id for author_id in author_ids if author_id not in self._loading]
        if not wanted:
            return
        # An empty context: the deadline of whoever asked first is not that of all.
        task = asyncio.get_running_loop().create_task(self._fill(wanted), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._loading.update(dict.fromkeys(wanted, task))

    async def _fill(self, author_ids: Sequence[int]) -> Mapping[int, Timeline]:
        # From before the read: what is pushed while it goes on may be missing.
        loaded_at = self._clock.monotonic()
        try:
            loaded = await self._load(author_ids)
        finally:
            for author_id in author_ids:
                del self._loading[author_id]
        for author_id, timeline in loaded.items():
            self._entries[author_id] = _Entry(timeline, loaded_at)
            self._entries.move_to_end(author_id)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return loaded


async def whole_timelines(author_posts: AuthorPosts, clock: Clock, author_ids: Sequence[int]) -> Mapping[int, Timeline]:
    """All that feeds may show of each author, or the newest of it: what HotTimelines keeps."""
    after_id = id_at(clock.now_ms() - FEED_DEPTH_MS)
    return await author_posts.below(author_ids, before_id=MAX_ID, after_id=after_id, limit=TIMELINE_CAPACITY)


class HotAuthorPosts:
    """feed_svc.ports.AuthorPosts that reads the hot authors of a request from HotTimelines.

    Those whom the request calls hot, and those whose timelines were measured to be (*hot_owners*).
    """

    def __init__(
        self, author_posts: AuthorPosts, timelines: HotTimelines, hot_owners: Callable[[], frozenset[int]]
    ) -> None:
        self._author_posts = author_posts
        self._timelines = timelines
        self._hot_owners = hot_owners

    async def below(
        self, author_ids: Sequence[int], *, before_id: int, after_id: int, limit: int, hot: Collection[int] = ()
    ) -> Mapping[int, Timeline]:
        if measured := self._hot_owners():
            hot = {*hot, *measured.intersection(author_ids)}
        if not hot:
            return await self._author_posts.below(author_ids, before_id=before_id, after_id=after_id, limit=limit)
        found: dict[int, Timeline] = {}
        others = [author_id for author_id in author_ids if author_id not in hot]
        kept = await self._timelines.get([author_id for author_id in author_ids if author_id in hot])
        for author_id, timeline in kept.items():
            part = part_below(timeline, before_id=before_id, limit=limit)
            if part.floor >= before_id - 1:
                others.append(author_id)  # below what is kept
            else:
                found[author_id] = part
        if others:
            found |= await self._author_posts.below(others, before_id=before_id, after_id=after_id, limit=limit)
        return found
