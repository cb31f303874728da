"""One page of a viewer's home feed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from feed_svc.flows.open_home import OpenedHome, OpenHome
from feed_svc.flows.walk_feed import WalkFeed
from feed_svc.model import (
    HEAD_CAPACITY,
    MAX_CANDIDATES,
    Degraded,
    FeedPage,
    FeedQuery,
    Mode,
    Position,
    Ranked,
    Seen,
    Session,
)
from feed_svc.ports import Ranker, Sessions, Shelf
from feed_svc.stages.arrangement import arrange
from feed_svc.stages.seen import unseen_first, worth_ranking
from feed_svc.stages.slate import fill_slate
from foundation.errors import DomainError, InvalidArgument, Unavailable
from foundation.model.clock import Randomness
from foundation.model.ids import MAX_ID
from foundation.timeline.port import Timelines

UNLINK_SHARE = 0.3
"""A timeline of which more than this is of people no longer followed is unlinked (rule 4)."""
UNLINK_SAMPLE = 20
"""Ids that must have been examined before that share means anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetFeed:
    """RANKED: a frozen, ranked head, then a tail, newest first. LATEST: newest first (rules 7 and 8)."""

    open_home: OpenHome
    walk_feed: WalkFeed
    ranker: Ranker
    sessions: Sessions
    shelf: Shelf
    timelines: Timelines
    randomness: Randomness

    async def __call__(self, query: FeedQuery) -> FeedPage:
        return await self.page(query, await self.open_home(query.viewer_id, with_seen=query.opens_head))

    async def page(self, query: FeedQuery, home: OpenedHome) -> FeedPage:
        """The page, of a home that was opened for it."""
        page = await self._page(query, home)
        if query.position is None and home.ids:
            return replace(page, newest_id=home.ids[0])
        return page

    async def _page(self, query: FeedQuery, home: OpenedHome) -> FeedPage:
        position = query.position
        if position is not None and not home.whole:
            # A first page is better with some than with none; further down a gap would go unnoticed.
            home = replace(home, ids=(), floor=MAX_ID)
        if query.mode is Mode.LATEST:
            return await self._newest_first(query, home, position or Position(Mode.LATEST))
        if position is None:
            return await self._first_ranked(query, home)
        if position.session_id == 0:
            return await self._newest_first(query, home, position)
        session = await self._resume(query.viewer_id, position.session_id)
        return await self._from_head(query, home, session, position, frozenset())

    async def _first_ranked(self, query: FeedQuery, home: OpenedHome) -> FeedPage:
        candidates = home.ids[:MAX_CANDIDATES]
        if not candidates:
            # Nothing above the floor; below it there may be.
            return await self._newest_first(query, home, Position(Mode.RANKED))
        order, reasons = await self._rank(query.viewer_id, worth_ranking(candidates, home.seen), home.seen)
        (session_id,) = struct.unpack("<Q", self.randomness.token_bytes(8))
        session = Session(session_id or 1, candidates[0], order)
        # Frozen while the slate is filled: both go to the cache in one write.
        freezing = asyncio.create_task(self._freeze(query.viewer_id, session))
        try:
            page = await self._from_head(query, home, session, Position(Mode.RANKED), reasons)
        finally:
            frozen = await freezing
        if frozen:
            return page
        position = Position(Mode.RANKED, freeze_id=session.freeze_id, before_id=session.freeze_id + 1)
        return await self._newest_first(query, home, position, reasons | {Degraded.SESSION_UNAVAILABLE})

    async def _freeze(self, viewer_id: int, session: Session) -> bool:
        try:
            await self.sessions.save(viewer_id, session)
        except Unavailable:
            return False
        return True

    async def _rank(
        self, viewer_id: int, candidates: Sequence[int], seen: Seen
    ) -> tuple[list[int], frozenset[Degraded]]:
        try:
            ranked = await self.ranker.rank(viewer_id, candidates)
        except DomainError:
            newest = candidates[:HEAD_CAPACITY]
            head = unseen_first(Ranked(newest, await self.shelf.authors_of(newest)), seen)
            return arrange(head.ids, head.author_ids), frozenset({Degraded.RANK_FALLBACK})
        self.shelf.learn(ranked.ids, ranked.author_ids)
        head = unseen_first(ranked, seen)
        return arrange(head.ids, head.author_ids), frozenset()

    async def _resume(self, viewer_id: int, session_id: int) -> Session:
        session = await self.sessions.load(viewer_id, session_id)
        if session is None:
            raise InvalidArgument("CURSOR_EXPIRED", "this feed session is gone: ask again without a cursor")
        return session

    async def _from_head(
        self, query: FeedQuery, home: OpenedHome, session: Session, start: Position, reasons: frozenset[Degraded]
    ) -> FeedPage:
        """A page that begins in the head and may end in the tail: one order, walked from the position."""
        head = session.ids[start.slot :] if start.before_id == 0 else ()
        slate = await fill_slate(self.shelf, query.viewer_id, home.viewer, head, query.limit)
        slot = start.slot + slate.examined
        after: Position | None = Position(Mode.RANKED, session.session_id, slot, session.freeze_id)
        if slate.examined == len(head):
            # Most pages end inside the head; only those that reach its end need to know what follows it.
            rest, before_id = await self.walk_feed(
                query.viewer_id,
                home,
                before_id=start.before_id or session.freeze_id + 1,
                limit=query.limit - len(slate.posts),
                shown=set(session.ids),
            )
            slate = slate.followed_by(rest)
            after = Position(Mode.RANKED, session.session_id, 0, session.freeze_id, before_id) if before_id else None
        await self._tidy(query.viewer_id, slate.examined, slate.foreign)
        all_reasons = home.reasons | reasons | slate.reasons
        return FeedPage(slate.posts, after, session.session_id, all_reasons, home.cache_hit)

    async def _newest_first(
        self, query: FeedQuery, home: OpenedHome, start: Position, reasons: frozenset[Degraded] = frozenset()
    ) -> FeedPage:
        slate, before_id = await self.walk_feed(query.viewer_id, home, before_id=start.before_id, limit=query.limit)
        await self._tidy(query.viewer_id, slate.examined, slate.foreign)
        after = Position(start.mode, freeze_id=start.freeze_id, before_id=before_id) if before_id else None
        return FeedPage(slate.posts, after, 0, home.reasons | reasons | slate.reasons, home.cache_hit)

    async def _tidy(self, viewer_id: int, examined: int, foreign: int) -> None:
        if examined >= UNLINK_SAMPLE and foreign > UNLINK_SHARE * examined:
            try:
                await self.timelines.unlink([viewer_id])
            except Unavailable:
                return  # the next page tries again
