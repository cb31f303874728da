"""FeedService: decode, run the flow, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from feedmesh.feed.v1 import feed_service_pb2 as pb

from feed_svc.edge import wire
from feed_svc.edge.cursors import FeedCursors
from feed_svc.flows.explain_item import ExplainItem
from feed_svc.flows.get_feed import GetFeed
from feed_svc.flows.mark_seen import MarkSeen
from feed_svc.flows.refresh_feed import RefreshFeed
from feed_svc.flows.resume_feed import ResumeFeed
from feed_svc.flows.save_position import SavePosition
from feed_svc.flows.watch_feed import WatchFeed
from feed_svc.model import FeedPage
from foundation.rpc.server import Call
from foundation.telemetry.metrics import DEGRADED_TOTAL


class FeedHandlers:
    """The handlers of FeedService."""

    def __init__(
        self,
        *,
        get_feed: GetFeed,
        refresh_feed: RefreshFeed,
        mark_seen: MarkSeen,
        save_position: SavePosition,
        resume_feed: ResumeFeed,
        explain_item: ExplainItem,
        watch_feed: WatchFeed,
        cursors: FeedCursors,
    ) -> None:
        self._get_feed = get_feed
        self._refresh_feed = refresh_feed
        self._mark_seen = mark_seen
        self._save_position = save_position
        self._resume_feed = resume_feed
        self._explain_item = explain_item
        self._watch_feed = watch_feed
        self._cursors = cursors

    async def GetFeed(self, request: pb.GetFeedRequest, call: Call) -> bytes:
        query = wire.feed_query(request, viewer_id=call.user_id, cursors=self._cursors)
        page = await self._get_feed(query)
        _tell(page, call)
        return wire.feed_response(page, self._cursors.seal(call.user_id, page.next))

    async def RefreshFeed(self, request: pb.RefreshFeedRequest, call: Call) -> bytes:
        if request.count_only:
            refreshed = await self._refresh_feed.count(call.user_id, since_id=request.since_id)
        else:
            query = wire.refresh_query(request, viewer_id=call.user_id)
            refreshed = await self._refresh_feed(query, since_id=request.since_id)
        _tell(refreshed.page, call)
        return wire.refresh_response(refreshed, self._cursors.seal(call.user_id, refreshed.page.next))

    async def MarkSeen(self, request: pb.MarkSeenRequest, call: Call) -> pb.MarkSeenResponse:
        await self._mark_seen(call.user_id, request.post_ids)
        return pb.MarkSeenResponse()

    async def SaveFeedPosition(self, request: pb.SaveFeedPositionRequest, call: Call) -> pb.SaveFeedPositionResponse:
        mode = wire.mode_of(request.mode)
        saved_ms = request.saved_at.ToMilliseconds()
        kept = await self._save_position(call.user_id, mode, request.anchor_id, saved_ms=saved_ms)
        return pb.SaveFeedPositionResponse(position=wire.feed_position(kept))

    async def GetFeedPosition(self, _: pb.GetFeedPositionRequest, call: Call) -> pb.GetFeedPositionResponse:
        saved, following = await self._resume_feed(call.user_id)
        cursor = self._cursors.seal(call.user_id, following)
        return pb.GetFeedPositionResponse(position=wire.feed_position(saved), next_cursor=cursor)

    async def ExplainFeedItem(self, request: pb.ExplainFeedItemRequest, call: Call) -> pb.ExplainFeedItemResponse:
        return wire.explanation(await self._explain_item(call.user_id, request.post_id))

    async def WatchFeed(self, request: pb.WatchFeedRequest, call: Call) -> AsyncIterator[pb.WatchFeedResponse]:
        async with aclosing(self._watch_feed(call.user_id, since_id=request.since_id)) as told:
            async for news in told:
                yield wire.watch_response(news, request.since_id)


def _tell(page: FeedPage, call: Call) -> None:
    """What headers and metrics say of a page."""
    call.set_header("x-feed-quality", "degraded" if page.reasons else "normal")
    call.set_header("x-cache-status", "hit" if page.cache_hit else "miss")
    for reason in page.reasons:
        DEGRADED_TOTAL.labels(reason.name).inc()
    if page.journal is not None:
        page.journal.publish()
        if call.header("x-feed-timing"):
            call.set_header("server-timing", page.journal.server_timing())
