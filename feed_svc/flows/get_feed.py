"""One page of a viewer's home feed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from feed_svc.degradation import noting
from feed_svc.flows.gather_candidates import GatherCandidates
from feed_svc.flows.mend_gaps import MendGaps
from feed_svc.flows.open_home import OpenedHome, OpenHome
from feed_svc.flows.walk_feed import WalkFeed
from feed_svc.model import (
    HEAD_CAPACITY,
    Candidates,
    Degraded,
    FeedPage,
    FeedQuery,
    Mode,
    Position,
    Ranked,
    Session,
    Slate,
    Walked,
)
from feed_svc.ports import Ranker, Recommender, Sessions, Shelf
from feed_svc.stages.arrangement import compose
from feed_svc.stages.candidates import without_known
from feed_svc.stages.seen import unseen_first, worth_ranking
from feed_svc.stages.slate import fill_slate
from foundation.errors import DeadlineExceeded, DomainError, InvalidArgument, Unavailable
from foundation.model.clock import Clock, Randomness
from foundation.model.ids import MAX_ID
from foundation.rpc.deadlines import Deadline, enter, timeout
from foundation.telemetry.journal import Journal
from foundation.timeline.port import Timelines

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
    list, at once → rank → compose → freeze and slate (records, visible(), refill, splice), at once. Later pages:
    viewer → session → slate → tail.
    """

    open_home: OpenHome
    mend_gaps: MendGaps
    gather_candidates: GatherCandidates
    walk_feed: WalkFeed
    ranker: Ranker
    sessions: Sessions
    shelf: Shelf
    timelines: Timelines
    clock: Clock
    randomness: Randomness
    answer_within_s: float
    recommender: Recommender | None = None
    """None: heads hold nothing recommended."""

    async def __call__(self, query: FeedQuery) -> FeedPage:
        """Raises Unavailable(FEED_UNAVAILABLE) where nothing could be read, or nothing could be checked."""
        journal = Journal(self.clock)
        with noting() as noted:
            page = await self.page(query, await self.home(query, journal), journal)
        return replace(page, reasons=page.reasons | noted) if noted else page

    async def home(self, query: FeedQuery, journal: Journal) -> OpenedHome:
        """The home that a page of *query* is made of. From here on the request has `answer_within_s`."""
        enter(Deadline(self.clock, timeout(self.answer_within_s)))
        with _in_time():
            with journal.stage("viewer") as stage:
                home = await self.open_home(query.viewer_id, for_head=query.opens_head)
                stage.count = len(home.ids)
            # A list that was just built lacks nothing.
            return await self.mend_gaps(query.viewer_id, home, journal) if home.cache_hit else home

    async def page(
        self, query: FeedQuery, home: OpenedHome, journal: Journal, candidates: Candidates | None = None
    ) -> FeedPage:
        """The page, of a home that was opened for it and of candidates that may have been gathered already."""
        with _in_time():
            page = await self._page(query, home, journal, candidates)
        if not page.posts and Degraded.POSTS_UNAVAILABLE in page.reasons:
            # Nothing of it could be read or checked: the same page again is better than the next one.
            raise Unavailable("FEED_UNAVAILABLE", "the posts of this page cannot be read now")
        return page

    async def _page(
        self, query: FeedQuery, home: OpenedHome, journal: Journal, candidates: Candidates | None
    ) -> FeedPage:
        position = query.position
        if position is not None and not home.whole:
            # A first page is better with some than with none; further down a gap would go unnoticed.
            home = replace(home, ids=(), floor=MAX_ID)
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
        session = await self._resume(query.viewer_id, position.session_id, journal)
        return await self._from_head(query, home, journal, session, position)

    async def _first_ranked(
        self, query: FeedQuery, home: OpenedHome, journal: Journal, candidates: Candidates
    ) -> FeedPage:
        self._wish(query.viewer_id, home)
        ids = candidates.together()
        if not ids:
            # Nothing above the floor; below it there may be.
            return await self._newest_first(query, home, journal, Position(Mode.RANKED), candidates.reasons)
        ranked, reasons = await self._rank(query.viewer_id, ids, home, journal)
        with journal.stage("compose") as stage:
            chosen = without_known(ranked, candidates.recommended, viewer_id=query.viewer_id, viewer=home.viewer)
            order = compose(chosen, pulled=home.viewer.pulled, recommended=candidates.recommended)
            stage.count = len(order)
            if len(ranked.ids) > stage.count:
                stage.dropped = {"followed": len(ranked.ids) - stage.count}
        reasons |= candidates.reasons
        # What is recommended may be newer than all that is followed; the tail begins at what is followed.
        newest_id = (candidates.ids or ids)[0]
        (session_id,) = struct.unpack("<Q", self.randomness.token_bytes(8))
        session = Session(session_id or 1, newest_id, order, candidates.recommended.intersection(order))
        # Frozen while the slate is filled: both go to the cache in one write.
        freezing = asyncio.create_task(self._freeze(query.viewer_id, session, journal))
        try:
            page = await self._from_head(query, home, journal, session, Position(Mode.RANKED), reasons)
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

    async def _rank(
        self, viewer_id: int, all_ids: Sequence[int], home: OpenedHome, journal: Journal
    ) -> tuple[Ranked, frozenset[Degraded]]:
        """At most HEAD_CAPACITY, best first, unseen before seen; the newest where ranking fails."""
        ids = worth_ranking(all_ids, home.seen)
        reasons = frozenset[Degraded]()
        with journal.stage("rank") as stage:
            try:
                ranked = await self.ranker.rank(viewer_id, ids)
                self.shelf.learn(ranked.ids, ranked.author_ids)
                if not ranked.features_whole:
                    reasons = frozenset({Degraded.FEATURES_UNAVAILABLE})
            except DomainError:
                newest = ids[:HEAD_CAPACITY]
                ranked = Ranked(newest, await self.shelf.authors_of(newest))
                reasons = frozenset({Degraded.RANK_FALLBACK})
            stage.count = len(ranked.ids)
            if len(all_ids) > stage.count:
                stage.dropped = {"quick_score": len(ids) - stage.count, "seen": len(all_ids) - len(ids)}
        return unseen_first(ranked, home.seen), reasons

    async def _resume(self, viewer_id: int, session_id: int, journal: Journal) -> Session:
        with journal.stage("session") as stage:
            try:
                session = await self.sessions.load(viewer_id, session_id)
            except Unavailable as failure:
                # Another order would repeat posts and leave out others.
                raise Unavailable("CACHE_UNAVAILABLE", "this feed session cannot be read now") from failure
            stage.count = len(session.ids) if session else 0
        if session is None:
            raise InvalidArgument("CURSOR_EXPIRED", "this feed session is gone: ask again without a cursor")
        return session

    async def _from_head(
        self,
        query: FeedQuery,
        home: OpenedHome,
        journal: Journal,
        session: Session,
        start: Position,
        reasons: frozenset[Degraded] = frozenset(),
    ) -> FeedPage:
        """A page that begins in the head and may end in the tail: one order, walked from the position."""
        head = session.ids[start.slot :] if start.before_id == 0 else ()
        with journal.stage("slate") as stage:
            slate = await fill_slate(
                self.shelf, query.viewer_id, home.viewer, head, query.limit, recommended=session.recommended
            )
            stage.count, stage.dropped = len(slate.posts), slate.dropped
        slot = start.slot + slate.examined
        after: Position | None = Position(Mode.RANKED, session.session_id, slot, session.freeze_id)
        if slate.examined == len(head):
            # Most pages end inside the head; only those that reach its end need to know what follows it.
            before_id = start.before_id or session.freeze_id + 1
            room = query.limit - len(slate.posts)
            walked = await self._walk(query, home, journal, before_id, room, shown=set(session.ids))
            slate = slate.followed_by(walked.slate)
            next_id = walked.next_id
            after = Position(Mode.RANKED, session.session_id, 0, session.freeze_id, next_id) if next_id else None
        await self._tidy(query.viewer_id, slate)
        all_reasons = home.reasons | reasons | slate.reasons
        return FeedPage(slate.posts, after, session.session_id, all_reasons, home.cache_hit, journal=journal)

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


@contextmanager
def _in_time() -> Iterator[None]:
    """Time that ran out over silent parts is theirs, not the caller's: the same page may be had a moment later."""
    try:
        yield
    except DeadlineExceeded as failure:
        raise Unavailable("FEED_UNAVAILABLE", "the parts of this page did not answer in time") from failure
