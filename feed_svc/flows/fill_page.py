"""The posts of a page, in an order that stands: a frozen head and the tail below it, or newest first."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from feed_svc.flows.open_home import OpenedHome
from feed_svc.flows.walk_feed import WalkFeed
from feed_svc.flows.whole_home import WholeHome
from feed_svc.model import Degraded, FeedPage, FeedQuery, Mode, Position, Session, Slate, Walked
from feed_svc.ports import Shelf
from feed_svc.stages.slate import fill_slate
from foundation.errors import Unavailable
from foundation.model.ids import MAX_ID
from foundation.telemetry.journal import Journal
from foundation.timeline.port import Timelines
from foundation.viewers import ViewerRecord

UNLINK_SHARE = 0.3
"""A timeline of which more than this is of people no longer followed is unlinked (rule 4)."""
UNLINK_SAMPLE = 20
"""Ids that must have been examined before that share means anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillPage:
    """Records, visible(), refill from the ids that follow, and where the next page goes on."""

    whole_home: WholeHome
    walk_feed: WalkFeed
    shelf: Shelf
    timelines: Timelines

    async def from_head(
        self,
        query: FeedQuery,
        viewer: ViewerRecord,
        home: OpenedHome | None,
        journal: Journal,
        session: Session,
        start: Position,
        reasons: frozenset[Degraded] = frozenset(),
    ) -> FeedPage:
        """A page that begins in the head and may end in the tail: one order, walked from the position."""
        head = session.ids[start.slot :] if start.before_id == 0 else ()
        with journal.stage("slate") as stage:
            slate = await fill_slate(
                self.shelf,
                query.viewer_id,
                viewer,
                head,
                query.limit,
                recommended=session.recommended,
                author_ids=session.author_ids[start.slot :],
            )
            stage.count, stage.dropped = len(slate.posts), slate.dropped
        slot = start.slot + slate.examined
        after: Position | None = Position(Mode.RANKED, session.session_id, slot, session.freeze_id)
        if slate.examined == len(head):
            # Most pages end inside the head; only those that reach its end need to know what follows it.
            home = home or complete(await self.whole_home(query, journal))
            before_id = start.before_id or session.freeze_id + 1
            room = query.limit - len(slate.posts)
            walked = await self._walk(query, home, journal, before_id, room, shown=set(session.ids))
            slate = slate.followed_by(walked.slate)
            next_id = walked.next_id
            after = Position(Mode.RANKED, session.session_id, 0, session.freeze_id, next_id) if next_id else None
        await self._tidy(query.viewer_id, slate)
        all_reasons = reasons | slate.reasons | (home.reasons if home else frozenset())
        cache_hit = home is None or home.cache_hit
        return FeedPage(slate.posts, after, session.session_id, all_reasons, cache_hit, journal=journal)

    async def newest_first(
        self,
        query: FeedQuery,
        home: OpenedHome,
        journal: Journal,
        start: Position,
        reasons: frozenset[Degraded] = frozenset(),
    ) -> FeedPage:
        """A page of LATEST, or of a RANKED feed that has no head, or no more of it."""
        walked = await self._walk(query, home, journal, start.before_id, query.limit)
        await self._tidy(query.viewer_id, walked.slate)
        next_id = walked.next_id
        after = Position(start.mode, freeze_id=start.freeze_id, before_id=next_id) if next_id else None
        reasons |= home.reasons | walked.slate.reasons
        newest_id = walked.newest_id if query.position is None else 0
        return FeedPage(walked.slate.posts, after, 0, reasons, home.cache_hit, newest_id, journal)

    async def _walk(
        self,
        query: FeedQuery,
        home: OpenedHome,
        journal: Journal,
        before_id: int,
        limit: int,
        shown: Collection[int] = (),
    ) -> Walked:
        with journal.stage("tail") as stage:
            walked = await self.walk_feed(query.viewer_id, home, before_id=before_id, limit=limit, shown=shown)
            stage.count, stage.dropped = len(walked.slate.posts), walked.slate.dropped
            return walked

    async def _tidy(self, viewer_id: int, slate: Slate) -> None:
        if slate.examined >= UNLINK_SAMPLE and slate.foreign > UNLINK_SHARE * slate.examined:
            try:
                await self.timelines.unlink([viewer_id])
            except Unavailable:
                return  # the next page tries again


def complete(home: OpenedHome) -> OpenedHome:
    """A first page is better with some authors than with none; further down a gap would go unnoticed."""
    return home if home.whole else replace(home, ids=(), floor=MAX_ID)
