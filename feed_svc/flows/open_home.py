"""Open a viewer's home: the record, the newest ids above the floor, and whether the timeline was there.

A cold timeline is rebuilt (rule 3): begin, then read the graph, then the authors' posts, in this order, then commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from feed_svc.model import FEED_DEPTH_MS, NOTHING_SEEN, Degraded, Home, Recommended, Seen, Session, Stretch
from feed_svc.ports import AuthorPosts, Graph, Homes
from feed_svc.stages.candidates import newest_first, own_posts_wait
from feed_svc.stages.walk import newest_of, walk_down
from foundation.errors import DeadlineExceeded, Internal, NotFound, Unavailable
from foundation.model.clock import Clock, Randomness
from foundation.model.ids import MAX_ID, id_at
from foundation.rpc.deadlines import timeout
from foundation.timeline.port import CAPACITY, Timeline, Timelines
from foundation.viewers import ViewerRecord
from foundation.visibility import UserState

FEED_UNAVAILABLE = "FEED_UNAVAILABLE"
WAITS_FOR_BUILDER_S = (0.01, 0.02, 0.04, 0.08)
"""Pauses while another request builds the same timeline; then this one serves its own, unsaved."""


@dataclass(slots=True, frozen=True)
class OpenedHome:
    """A viewer and their candidates."""

    viewer: ViewerRecord
    ids: Sequence[int]
    """Strictly descending: of everybody followed and not pulled, and of the viewer, all above `floor`."""
    floor: int
    oldest_id: int
    """Where the feed ends: 7 days back. Nothing at or below it is shown."""
    cache_hit: bool
    reasons: frozenset[Degraded]
    seen: Seen = field(default_factory=lambda: NOTHING_SEEN)
    """What the viewer has seen, if it was asked for."""
    recommended: Recommended | None = None
    """As in Home."""
    whole: bool = True
    """False when `ids` are of those authors only who could be read in time."""
    part: bool = False
    """Whether the list goes on below `floor`: no more of it was asked for."""

    def holds_all_below(self, before_id: int) -> bool:
        """Whether nothing has to be read to tell what comes below *before_id*."""
        return before_id - 1 <= self.oldest_id or (before_id - 1 > self.floor and not self.viewer.pulled)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHome:
    """Reads, or rebuilds, what a feed is made of."""

    homes: Homes
    graph: Graph
    author_posts: AuthorPosts
    timelines: Timelines
    clock: Clock
    randomness: Randomness
    rebuild_timeout_s: float

    async def __call__(self, viewer_id: int, *, for_head: bool = False, newest: int = CAPACITY) -> OpenedHome:
        """*newest* ids of the list, or more."""
        oldest_id = id_at(self.clock.now_ms() - FEED_DEPTH_MS)
        try:
            home = await self.homes.load(viewer_id, for_head=for_head, newest=newest)
        except Unavailable:
            return await self._from_the_store(viewer_id, oldest_id)
        viewer = home.viewer or await self._viewer_from_rows(viewer_id)
        _require_active(viewer)
        if home.timeline is None:
            return replace(await self._rebuild(viewer_id, oldest_id), seen=home.seen, recommended=home.recommended)
        own, reasons = home.own, frozenset[Degraded]()
        if own is None or own_posts_wait(home.timeline, own, oldest_id=oldest_id):
            found = await self.author_posts.below([viewer_id], before_id=MAX_ID, after_id=oldest_id, limit=CAPACITY)
            own = found.get(viewer_id)
            reasons = frozenset() if own is not None else frozenset({Degraded.FEED_PARTIAL})
        timeline = home.timeline
        ids = newest_first(timeline, own, oldest_id=oldest_id)
        part = newest < CAPACITY and len(timeline.ids) == newest
        return OpenedHome(viewer, ids, timeline.floor, oldest_id, True, reasons, home.seen, home.recommended, part=part)

    async def resume(self, viewer_id: int) -> tuple[ViewerRecord, Session | None]:
        """What a page within a frozen head is made of: the viewer, and the newest head that is kept."""
        viewer, session = await self.homes.resume(viewer_id)
        viewer = viewer or await self._viewer_from_rows(viewer_id)
        _require_active(viewer)
        return viewer, session

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
            viewer = home.viewer or await self._viewer_from_rows(viewer_id)
            assembled = await self._assemble(viewer_id, viewer, oldest_id)
            if assembled.missing:
                if began:
                    # Nobody shall wait for what is not being built.
                    await self.timelines.unlink([viewer_id])
                return _unsaved(viewer, assembled, oldest_id)
            if began and await self.timelines.commit(viewer_id, token, assembled.ids, assembled.floor):
                # What was pushed since begin is merged by commit; read it back rather than merge twice.
                home = await self.homes.load(viewer_id)
                if home.timeline is not None:
                    return await self._opened(viewer_id, home, oldest_id)
            return _unsaved(viewer, assembled, oldest_id)
        except Unavailable as failure:
            if failure.reason == FEED_UNAVAILABLE:
                raise
            return await self._from_the_store(viewer_id, oldest_id)

    async def _viewer_from_rows(self, viewer_id: int) -> ViewerRecord:
        """Without it nothing can be shown: whom the viewer blocks is in no other place."""
        try:
            return await self.graph.viewer_from_rows(viewer_id)
        except (Unavailable, DeadlineExceeded, Internal) as failure:
            raise Unavailable(FEED_UNAVAILABLE, "whom you follow and block cannot be read now") from failure

    async def _opened(self, viewer_id: int, home: Home, oldest_id: int) -> OpenedHome:
        viewer = home.viewer or await self._viewer_from_rows(viewer_id)
        timeline = home.timeline or Timeline((), oldest_id)
        ids = newest_first(timeline, home.own, oldest_id=oldest_id)
        return OpenedHome(viewer, ids, timeline.floor, oldest_id, False, frozenset())

    async def _assemble(self, viewer_id: int, viewer: ViewerRecord, oldest_id: int) -> Stretch:
        """What a timeline of this viewer holds: of everybody but SUPER authors, whose many posts would fill it.

        They are always pulled, and stop being so only after 7 days of BOTH: then no post of theirs that was not pushed
        is young enough for a feed. Other pulled authors may be in BOTH already, and a timeline that is built without
        them would miss what they wrote before it, so it holds them too; what is both in it and pulled comes once.
        """
        authors = [viewer_id, *(viewer.follows - viewer.supers)]
        try:
            async with asyncio.timeout(timeout(self.rebuild_timeout_s)):
                found = await walk_down(
                    self.author_posts, authors, before_id=MAX_ID, after_id=oldest_id, wanted=CAPACITY
                )
                return newest_of(found, CAPACITY)
        except TimeoutError:
            return Stretch((), MAX_ID, missing=True)

    async def _from_the_store(self, viewer_id: int, oldest_id: int) -> OpenedHome:
        viewer = await self._viewer_from_rows(viewer_id)
        _require_active(viewer)
        assembled = await self._assemble(viewer_id, viewer, oldest_id)
        return _unsaved(viewer, assembled, oldest_id, Degraded.CACHE_UNAVAILABLE)


def _unsaved(viewer: ViewerRecord, assembled: Stretch, oldest_id: int, *reasons: Degraded) -> OpenedHome:
    """A home that serves this request alone.

    Of authors that could not all be read it shows the newest there is, and says so; below that all of them are asked
    again. Raises Unavailable where there is nothing.
    """
    ids, floor = assembled.ids, assembled.floor
    if assembled.missing:
        reasons = (*reasons, Degraded.FEED_PARTIAL)
        ids = [*ids, *assembled.loose][:CAPACITY]
        if not ids:
            raise Unavailable(FEED_UNAVAILABLE, "what those whom you follow wrote cannot be read now")
        floor = ids[-1] - 1 if ids else MAX_ID
    return OpenedHome(viewer, ids, floor, oldest_id, False, frozenset(reasons), whole=not assembled.missing)


def _require_active(viewer: ViewerRecord) -> None:
    if viewer.state is not UserState.ACTIVE:
        raise NotFound("USER_NOT_FOUND", "no such user")
