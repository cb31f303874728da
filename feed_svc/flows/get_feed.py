"""One page of a viewer's home feed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from feed_svc.degradation import noting
from feed_svc.flows.fill_page import FillPage, complete
from feed_svc.flows.frozen_heads import FrozenHeads
from feed_svc.flows.gather_candidates import GatherCandidates
from feed_svc.flows.make_head import MakeHead
from feed_svc.flows.open_home import FEED_UNAVAILABLE, OpenedHome
from feed_svc.flows.whole_home import WholeHome
from feed_svc.model import (
    Candidates,
    Degraded,
    FeedPage,
    FeedQuery,
    Mode,
    Position,
    Session,
)
from feed_svc.ports import Presence, Recommender
from foundation.errors import DeadlineExceeded, Unavailable
from foundation.model.clock import Clock, Randomness
from foundation.rpc.deadlines import Deadline, enter, timeout
from foundation.telemetry.journal import Journal
from foundation.timeline.port import CAPACITY

RECOMMENDED_FOR_MS = 600_000
"""Recommendations older than this are wished for again, and shown until the new ones are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetFeed:
    """RANKED: a frozen, ranked head, then a tail, newest first. LATEST: newest first (rules 7 and 8).

    The stages of a first page: viewer (record and list, one call) → gaps, where there are any → sources beside the
    list, at once → rank → compose → freeze and slate (records, visible(), refill, splice), at once. A later page within
    the head: session (viewer record and head, one call) → slate. Below it: viewer → session → tail.
    """

    whole_home: WholeHome
    gather_candidates: GatherCandidates
    make_head: MakeHead
    frozen_heads: FrozenHeads
    fill_page: FillPage
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
            return await self.whole_home(query, journal, newest=newest)

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
            viewer, session = await self.frozen_heads.resume(query.viewer_id, position.session_id, journal)
            return _not_in_vain(await self.fill_page.from_head(query, viewer, None, journal, session, position))

    async def _page(
        self, query: FeedQuery, home: OpenedHome, journal: Journal, candidates: Candidates | None
    ) -> FeedPage:
        position = query.position
        if position is not None:
            home = complete(home)
        if query.mode is Mode.LATEST:
            return await self.fill_page.newest_first(query, home, journal, position or Position(Mode.LATEST))
        if position is None:
            if Degraded.CACHE_UNAVAILABLE in home.reasons:
                # The node that did not bring the home is that of the sessions: no head can be frozen there.
                lost = frozenset({Degraded.SESSION_UNAVAILABLE})
                return await self.fill_page.newest_first(query, home, journal, Position(Mode.RANKED), lost)
            candidates = candidates or await self.gather_candidates(home, journal)
            return await self._first_ranked(query, home, journal, candidates)
        if position.session_id == 0:
            return await self.fill_page.newest_first(query, home, journal, position)
        viewer, session = await self.frozen_heads.resume(query.viewer_id, position.session_id, journal)
        return await self.fill_page.from_head(query, viewer, home, journal, session, position)

    async def _first_ranked(
        self, query: FeedQuery, home: OpenedHome, journal: Journal, candidates: Candidates
    ) -> FeedPage:
        self._wish(query.viewer_id, home)
        ids = candidates.ids or candidates.together()
        if not ids:
            # Nothing above the floor; below it there may be.
            return await self.fill_page.newest_first(query, home, journal, Position(Mode.RANKED), candidates.reasons)
        head, reasons = await self.make_head(query.viewer_id, home, candidates, journal)
        # What is recommended may be newer than all that is followed; the tail begins at what is followed.
        newest_id = ids[0]
        (session_id,) = struct.unpack("<Q", self.randomness.token_bytes(8))
        recommended = candidates.recommended.intersection(head.ids)
        session = Session(session_id or 1, newest_id, head.ids, recommended, head.author_ids)
        # Frozen while the slate is filled: both go to the cache in one write.
        freezing = asyncio.create_task(self.frozen_heads.freeze(query.viewer_id, session, journal))
        try:
            page = await self.fill_page.from_head(
                query, home.viewer, home, journal, session, Position(Mode.RANKED), reasons
            )
        finally:
            frozen = await freezing
        if not frozen:
            position = Position(Mode.RANKED, freeze_id=newest_id, before_id=newest_id + 1)
            reasons |= {Degraded.SESSION_UNAVAILABLE}
            page = await self.fill_page.newest_first(query, home, journal, position, reasons)
        return replace(page, newest_id=newest_id)

    def _wish(self, viewer_id: int, home: OpenedHome) -> None:
        """Off this request's path: its head is made of what was found before."""
        if self.recommender is None or not home.viewer.follows:
            return
        made_ms = home.recommended.made_ms if home.recommended is not None else 0
        if made_ms < self.clock.now_ms() - RECOMMENDED_FOR_MS:
            self.recommender.wish(viewer_id)


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
