"""One page of a viewer's home feed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from feed_svc.degradation import noting
from feed_svc.flows.gather_candidates import GatherCandidates
from feed_svc.flows.make_head import MakeHead
from feed_svc.flows.mend_gaps import MendGaps
from feed_svc.flows.open_home import FEED_UNAVAILABLE, OpenedHome, OpenHome
from feed_svc.flows.walk_feed import WalkFeed
from feed_svc.model import (
    Candidates,
    Degraded,
    FeedPage,
    FeedQuery,
    Mode,
    Position,
    Session,
    Slate,
    Walked,
)
from feed_svc.ports import Presence, Recommender, Sessions, Shelf
from feed_svc.stages.slate import fill_slate
from foundation.errors import DeadlineExceeded, InvalidArgument, Unavailable
from foundation.model.clock import Clock, Randomness
from foundation.model.ids import MAX_ID
from foundation.rpc.deadlines import Deadline, enter, timeout
from foundation.telemetry.journal import Journal
from foundation.timeline.port import CAPACITY, Timelines
from foundation.viewers import ViewerRecord

UNLINK_SHARE = 0.3
"""A timeline of which more than this is of people no longer followed is unlinked (rule 4)."""
UNLINK_SAMPLE = 20
"""Ids that must have been examined before that share means anything."""
RECOMMENDED_FOR_MS = 600_000
"""Recommendations older than this are wished for again, and shown until the new ones are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetFeed:
    """RANKED: a frozen, ranked head, then a tail, newest first. LATEST: newest first (rules 7 and 8).

    The stages of a first page: viewer (record and list, one call) → gaps, where there are any → sources beside the
    list, at once → rank → compose → freeze and slate (records, visible(), refill, splice), at once. A later page within
    the head: session (viewer record and head, one call) → slate. Below it: viewer → session → tail.
    """

    open_home: OpenHome
    mend_gaps: MendGaps
    gather_candidates: GatherCandidates
    walk_feed: WalkFeed
    make_head: MakeHead
    sessions: Sessions
    shelf: Shelf
    timelines: Timelines
    clock: Clock
    randomness: Randomness
    presence: Presence
    answer_within_s: float
    recommender: Recommender | None = None
    """None: heads hold nothing recommended."""

    async def __call__(self, query: FeedQuery) -> FeedPage:
        """Raises Unavailable(FEED_UNAVAILABLE) where nothing could be read, or nothing could be checked."""
        journal = Journal(self.clock)
        with noting() as noted:
            if query.position is not None and query.position.in_head:
                page = await self._further_in_head(query, query.position, journal)
            else:
                page = await self.page(query, await self.home(query, journal, newest=query.depth), journal)
        return replace(page, reasons=page.reasons | noted) if noted else page

    async def home(self, query: FeedQuery, journal: Journal, *, newest: int = CAPACITY) -> OpenedHome:
        """The home that a page of *query* is made of. From here on the request has `answer_within_s`."""
        enter(Deadline(self.clock, timeout(self.answer_within_s)))
        self.presence.reads(query.viewer_id)
        with _in_time():
            if newest < CAPACITY and await self.mend_gaps.wanted(query.viewer_id):
                newest = CAPACITY
            return await self._home(query, journal, newest=newest)

    async def _home(self, query: FeedQuery, journal: Journal, *, newest: int = CAPACITY) -> OpenedHome:
        with journal.stage("viewer") as stage:
            home = await self.open_home(query.viewer_id, for_head=query.opens_head, newest=newest)
            stage.count = len(home.ids)
        # A list that was just built lacks nothing.
        return await self.mend_gaps(query.viewer_id, home, journal) if home.cache_hit else home

    async def page(
        self, query: FeedQuery, home: OpenedHome, journal: Journal, candidates: Candidates | None = None
    ) -> FeedPage:
        """The page, of a home that was opened for it and of candidates that may have been gathered already."""
        with _in_time():
            return _not_in_vain(await self._page(query, home, journal, candidates))

    async def _further_in_head(self, query: FeedQuery, position: Position, journal: Journal) -> FeedPage:
        """A page that begins in a frozen head: the list is opened only where the head ends."""
        enter(Deadline(self.clock, timeout(self.answer_within_s)))
        with _in_time():
            viewer, session = await self._resume(query.viewer_id, position.session_id, journal)
            return _not_in_vain(await self._from_head(query, viewer, None, journal, session, position))

    async def _page(
        self, query: FeedQuery, home: OpenedHome, journal: Journal, candidates: Candidates | None
    ) -> FeedPage:
        position = query.position
        if position is not None:
            home = _complete(home)
        if query.mode is Mode.LATEST:
            return await self._newest_first(query, home, journal, position or Position(Mode.LATEST))
        if position is None:
            if Degraded.CACHE_UNAVAILABLE in home.reasons:
                # The node that did not bring the home is that of the sessions: no head can be frozen there.
                lost = frozenset({Degraded.SESSION_UNAVAILABLE})
                return await self._newest_first(query, home, journal, Position(Mode.RANKED), lost)
            candidates = candidates or await self.gather_candidates(home, journal)
            return await self._first_ranked(query, home, journal, candidates)
        if position.session_id == 0:
            return await self._newest_first(query, home, journal, position)
        viewer, session = await self._resume(query.viewer_id, position.session_id, journal)
        return await self._from_head(query, viewer, home, journal, session, position)

    async def _first_ranked(
        self, query: FeedQuery, home: OpenedHome, journal: Journal, candidates: Candidates
    ) -> FeedPage:
        self._wish(query.viewer_id, home)
        ids = candidates.ids or candidates.together()
        if not ids:
            # Nothing above the floor; below it there may be.
            return await self._newest_first(query, home, journal, Position(Mode.RANKED), candidates.reasons)
        head, reasons = await self.make_head(query.viewer_id, home, candidates, journal)
        # What is recommended may be newer than all that is followed; the tail begins at what is followed.
        newest_id = ids[0]
        (session_id,) = struct.unpack("<Q", self.randomness.token_bytes(8))
        recommended = candidates.recommended.intersection(head.ids)
        session = Session(session_id or 1, newest_id, head.ids, recommended, head.author_ids)
        # Frozen while the slate is filled: both go to the cache in one write.
        freezing = asyncio.create_task(self._freeze(query.viewer_id, session, journal))
        try:
            page = await self._from_head(query, home.viewer, home, journal, session, Position(Mode.RANKED), reasons)
        finally:
            frozen = await freezing
        if not frozen:
            position = Position(Mode.RANKED, freeze_id=newest_id, before_id=newest_id + 1)
            reasons |= {Degraded.SESSION_UNAVAILABLE}
            page = await self._newest_first(query, home, journal, position, reasons)
        return replace(page, newest_id=newest_id)

    def _wish(self, viewer_id: int, home: OpenedHome) -> None:
        """Off this request's path: its head is made of what was found before."""
        if self.recommender is None or not home.viewer.follows:
            return
        made_ms = home.recommended.made_ms if home.recommended is not None else 0
        if made_ms < self.clock.now_ms() - RECOMMENDED_FOR_MS:
            self.recommender.wish(viewer_id)

    async def _freeze(self, viewer_id: int, session: Session, journal: Journal) -> bool:
        with journal.stage("freeze") as stage:
            try:
                await self.sessions.save(viewer_id, session)
            except Unavailable:
                return False
            stage.count = len(session.ids)
            return True

    async def _resume(self, viewer_id: int, session_id: int, journal: Journal) -> tuple[ViewerRecord, Session]:
        with journal.stage("session") as stage:
            try:
                viewer, session = await self.open_home.resume(viewer_id)
                if session is None or session.session_id != session_id:
                    # Not the newest: a feed that was begun before another one, on another device.
                    session = await self.sessions.load(viewer_id, session_id)
            except Unavailable as failure:
                if failure.reason == FEED_UNAVAILABLE:
                    raise
                # Another order would repeat posts and leave out others.
                raise Unavailable("CACHE_UNAVAILABLE", "this feed session cannot be read now") from failure
            stage.count = len(session.ids) if session else 0
        if session is None:
            raise InvalidArgument("CURSOR_EXPIRED", "this feed session is gone: ask again without a cursor")
        return viewer, session

    async def _from_head(
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
            home = home or _complete(await self._home(query, journal))
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

    async def _newest_first(
        self,
        query: FeedQuery,
        home: OpenedHome,
        journal: Journal,
        start: Position,
        reasons: frozenset[Degraded] = frozenset(),
    ) -> FeedPage:
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


def _complete(home: OpenedHome) -> OpenedHome:
    """A first page is better with some authors than with none; further down a gap would go unnoticed."""
    return home if home.whole else replace(home, ids=(), floor=MAX_ID)


def _not_in_vain(page: FeedPage) -> FeedPage:
    if not page.posts and Degraded.POSTS_UNAVAILABLE in page.reasons:
        # Nothing of it could be read or checked: the same page again is better than the next one.
        raise Unavailable(FEED_UNAVAILABLE, "the posts of this page cannot be read now")
    return page


@contextmanager
def _in_time() -> Iterator[None]:
    """Time that ran out over silent parts is theirs, not the caller's: the same page may be had a moment later."""
    try:
        yield
    except DeadlineExceeded as failure:
        raise Unavailable(FEED_UNAVAILABLE, "the parts of this page did not answer in time") from failure
