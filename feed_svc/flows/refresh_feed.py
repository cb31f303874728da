"""Count what is new, and make the newest feed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from feed_svc.degradation import noting
from feed_svc.flows.count_newer import CountNewer
from feed_svc.flows.gather_candidates import GatherCandidates
from feed_svc.flows.get_feed import GetFeed
from feed_svc.model import FeedPage, FeedQuery, Refreshed
from feed_svc.ports import Shelf
from feed_svc.stages.newer import newer_posts
from foundation.model.clock import Clock
from foundation.telemetry.journal import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshFeed:
    """The number of posts newer than *since_id*, and a first page; both of the same candidates."""

    get_feed: GetFeed
    gather_candidates: GatherCandidates
    count_newer: CountNewer
    shelf: Shelf
    clock: Clock

    async def __call__(self, query: FeedQuery, *, since_id: int) -> Refreshed:
        journal = Journal(self.clock)
        with noting() as noted:
            home = await self.get_feed.home(query, journal)
            candidates = await self.gather_candidates(home, journal)
            newer = await newer_posts(self.shelf, query.viewer_id, home.viewer, candidates.ids, since_id)
            page = await self.get_feed.page(query, home, journal, candidates)
        reasons = page.reasons | candidates.reasons | newer.reasons | noted
        return Refreshed(len(newer.posts), replace(page, reasons=reasons))

    async def count(self, viewer_id: int, *, since_id: int) -> Refreshed:
        """Only the number, with an empty page."""
        news = await self.count_newer(viewer_id, since_id)
        return Refreshed(news.new_posts, FeedPage((), None, 0, news.reasons, news.cache_hit, news.newest_id))
