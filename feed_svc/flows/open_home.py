"""Open a viewer's home: the record, the newest ids above the floor, and whether the timeline was there.

A cold timeline is rebuilt (rule 3): begin, then read the graph, then the authors' posts, in this order, then commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from feed_svc.model import FEED_DEPTH_MS, NOTHING_SEEN, Degraded, Home, Seen
from feed_svc.ports import Graph, Homes, RecentPosts
from feed_svc.stages.candidates import merge_recent, newest_first
from foundation.errors import DeadlineExceeded, NotFound, Unavailable
from foundation.model.clock import Clock, Randomness
from foundation.model.ids import id_at
from foundation.timeline.port import Timeline, Timelines
from foundation.viewers import ViewerRecord
from foundation.visibility import UserState

WAITS_FOR_BUILDER_S = (0.01, 0.02, 0.04, 0.08)
"""Pauses while another request builds the same timeline; then this one serves its own, unsaved."""


@dataclass(slots=True, frozen=True)
class OpenedHome:
    """A viewer and their candidates."""

    viewer: ViewerRecord
    ids: Sequence[int]
    """Strictly descending, at most CAPACITY."""
    cache_hit: bool
    reasons: frozenset[Degraded]
    seen: Seen = field(default_factory=lambda: NOTHING_SEEN)
    """What the viewer has seen, if it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHome:
    """Reads, or rebuilds, what a feed is made of."""

    homes: Homes
    graph: Graph
    recent: RecentPosts
    timelines: Timelines
    clock: Clock
    randomness: Randomness
    rebuild_timeout_s: float

    async def __call__(self, viewer_id: int, *, with_seen: bool = False) -> OpenedHome:
        oldest_id = id_at(self.clock.now_ms() - FEED_DEPTH_MS)
        try:
            home = await self.homes.load(viewer_id, with_seen=with_seen)
        except Unavailable:
            return await self._from_the_store(viewer_id, oldest_id)
        viewer = home.viewer or await self.graph.viewer_from_rows(viewer_id)
        _require_active(viewer)
        if home.timeline is None:
            return replace(await self._rebuild(viewer_id, oldest_id), seen=home.seen)
        own = home.own or (await self.recent.of([viewer_id], after_id=oldest_id))[viewer_id]
        return OpenedHome(viewer, newest_first(home.timeline, own, oldest_id=oldest_id), True, frozenset(), home.seen)

    async def _rebuild(self, viewer_id: int, oldest_id: int) -> OpenedHome:
        token = self.randomness.token_bytes(8).hex()
        try:
            began = await self.timelines.begin(viewer_id, token, oldest_id)
            if not began:
                for pause in WAITS_FOR_BUILDER_S:
                    await asyncio.sleep(pause)
                    home = await self.homes.load(viewer_id)
                    if home.timeline is not None:
                        return await self._opened(viewer_id, home, oldest_id)
            # The graph is read after begin: a follow that is missing here is backfilled into the begun timeline.
            home = await self.homes.load(viewer_id)
            viewer = home.viewer or await self.graph.viewer_from_rows(viewer_id)
            ids, floor, complete = await self._assemble(viewer_id, viewer, oldest_id)
            if not complete:
                return OpenedHome(viewer, ids, False, frozenset({Degraded.FEED_PARTIAL}))
            if began and await self.timelines.commit(viewer_id, token, ids, floor):
                # What was pushed since begin is merged by commit; read it back rather than merge twice.
                home = await self.homes.load(viewer_id)
                if home.timeline is not None:
                    return await self._opened(viewer_id, home, oldest_id)
            return OpenedHome(viewer, ids, False, frozenset())
        except Unavailable:
            return await self._from_the_store(viewer_id, oldest_id)

    async def _opened(self, viewer_id: int, home: Home, oldest_id: int) -> OpenedHome:
        viewer = home.viewer or await self.graph.viewer_from_rows(viewer_id)
        timeline = home.timeline or Timeline((), oldest_id)
        return OpenedHome(viewer, newest_first(timeline, home.own, oldest_id=oldest_id), False, frozenset())

    async def _assemble(self, viewer_id: int, viewer: ViewerRecord, oldest_id: int) -> tuple[list[int], int, bool]:
        authors = [viewer_id, *viewer.follows]
        try:
            async with asyncio.timeout(self.rebuild_timeout_s):
                sources = await self.recent.of(authors, after_id=oldest_id)
        except (TimeoutError, DeadlineExceeded, Unavailable):
            return [], oldest_id, False
        ids, floor = merge_recent(list(sources.values()), floor=oldest_id)
        return ids, floor, True

    async def _from_the_store(self, viewer_id: int, oldest_id: int) -> OpenedHome:
        viewer = await self.graph.viewer_from_rows(viewer_id)
        _require_active(viewer)
        ids, _, complete = await self._assemble(viewer_id, viewer, oldest_id)
        reasons = {Degraded.CACHE_UNAVAILABLE} if complete else {Degraded.CACHE_UNAVAILABLE, Degraded.FEED_PARTIAL}
        return OpenedHome(viewer, ids, False, frozenset(reasons))


def _require_active(viewer: ViewerRecord) -> None:
    if viewer.state is not UserState.ACTIVE:
        raise NotFound("USER_NOT_FOUND", "no such user")
