"""Count what is new, and make the newest feed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from feed_svc.flows.get_feed import GetFeed
from feed_svc.flows.open_home import OpenHome
from feed_svc.model import FeedPage, FeedQuery, Refreshed
from feed_svc.ports import Shelf
from feed_svc.stages.newer import newer_posts


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshFeed:
    """The number of posts newer than *since_id*, and a first page; both of the same candidates."""

    open_home: OpenHome
    get_feed: GetFeed
    shelf: Shelf

    async def __call__(self, query: FeedQuery, *, since_id: int) -> Refreshed:
        home = await self.open_home(query.viewer_id, with_seen=query.opens_head)
        newer = await newer_posts(self.shelf, query.viewer_id, home.viewer, home.ids, since_id)
        page = await self.get_feed.page(query, home)
        return Refreshed(len(newer.posts), replace(page, reasons=page.reasons | newer.reasons))

    async def count(self, viewer_id: int, *, since_id: int) -> Refreshed:
        """Only the number, with an empty page."""
        home = await self.open_home(viewer_id)
        newer = await newer_posts(self.shelf, viewer_id, home.viewer, home.ids, since_id)
        reasons = home.reasons | newer.reasons
        page = FeedPage((), None, 0, reasons, home.cache_hit, newest_id=home.ids[0] if home.ids else 0)
        return Refreshed(len(newer.posts), page)
