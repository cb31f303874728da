"""FeedService: decode, run the flow, encode."""

from __future__ import annotations

from feedmesh.feed.v1 import feed_service_pb2 as pb

from feed_svc.edge import wire
from feed_svc.edge.cursors import FeedCursors
from feed_svc.flows.get_feed import GetFeed
from foundation.rpc.server import Call


class FeedHandlers:
    """The handlers of FeedService."""

    def __init__(self, get_feed: GetFeed, cursors: FeedCursors) -> None:
        self._get_feed = get_feed
        self._cursors = cursors

    async def GetFeed(self, request: pb.GetFeedRequest, call: Call) -> bytes:
        query = wire.feed_query(request, viewer_id=call.user_id, cursors=self._cursors)
        page = await self._get_feed(query)
        call.set_header("x-feed-quality", "degraded" if page.reasons else "normal")
        call.set_header("x-cache-status", "hit" if page.cache_hit else "miss")
        return wire.feed_response(page, self._cursors.seal(call.user_id, page.next))
