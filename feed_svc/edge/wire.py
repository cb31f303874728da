"""Protobuf to plain values and back; the answer is spliced from encoded posts."""

from __future__ import annotations

from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as pb

from feed_svc.edge.cursors import FeedCursors
from feed_svc.model import Explanation, FeedPage, FeedQuery, Kind, Mode, News, Refreshed, SavedPosition
from foundation.cards import varint
from foundation.errors import InvalidArgument
from foundation.list_cursors import page_limit

_POSTS_TAG = b"\x0a"  # posts = 1 of GetFeedResponse and RefreshFeedResponse, length-delimited


def feed_query(request: pb.GetFeedRequest, *, viewer_id: int, cursors: FeedCursors) -> FeedQuery:
    """The query of a request. Raises InvalidArgument (CURSOR_INVALID) when mode and cursor disagree."""
    position = cursors.open(viewer_id, request.cursor)
    asked = Mode(request.mode) if request.mode else None
    if position is not None and asked is not None and asked is not position.mode:
        raise InvalidArgument("CURSOR_INVALID", "the cursor belongs to another mode")
    mode = position.mode if position is not None else asked or Mode.RANKED
    return FeedQuery(viewer_id, page_limit(request.limit), mode, position)


def refresh_query(request: pb.RefreshFeedRequest, *, viewer_id: int) -> FeedQuery:
    """The first page that a refresh asks for."""
    return FeedQuery(viewer_id, page_limit(request.limit), mode_of(request.mode), None)


def mode_of(mode: int) -> Mode:
    """The order that a FeedMode stands for."""
    return Mode(mode) if mode else Mode.RANKED


def feed_response(page: FeedPage, next_cursor: str) -> bytes:
    """An encoded GetFeedResponse."""
    tail = pb.GetFeedResponse(
        next_cursor=next_cursor,
        has_more=bool(next_cursor),
        feed_session_id=f"fs_{page.session_id:x}" if page.session_id else "",
        quality=feed_pb2.DEGRADED if page.reasons else feed_pb2.NORMAL,
        degraded_reasons=[feed_pb2.DegradedReason.ValueType(reason) for reason in sorted(page.reasons)],
        cache_status=feed_pb2.HIT if page.cache_hit else feed_pb2.MISS,
        newest_id=page.newest_id,
    )
    parts = [part for post in page.posts for part in (_POSTS_TAG, varint(len(post)), post)]
    return b"".join([*parts, tail.SerializeToString()])


def refresh_response(refreshed: Refreshed, next_cursor: str) -> bytes:
    """An encoded RefreshFeedResponse: it begins with the fields of GetFeedResponse."""
    count = pb.RefreshFeedResponse(new_posts=refreshed.new_posts)
    return feed_response(refreshed.page, next_cursor) + count.SerializeToString()


def feed_position(saved: SavedPosition) -> feed_pb2.FeedPosition:
    """A saved position as callers see it."""
    position = feed_pb2.FeedPosition(mode=feed_pb2.FeedMode.ValueType(saved.mode), anchor_id=saved.anchor_id)
    position.saved_at.FromMilliseconds(saved.saved_ms)
    return position


_SOURCES = {
    Kind.PUSHED: feed_pb2.PUSHED,
    Kind.PULLED: feed_pb2.PULLED,
    Kind.OWN: feed_pb2.OWN,
    Kind.RECOMMENDED: feed_pb2.RECOMMENDED,
}


def explanation(found: Explanation) -> pb.ExplainFeedItemResponse:
    """Why a post is where it is, as callers see it."""
    answer = pb.ExplainFeedItemResponse(
        post_id=found.post_id,
        source=_SOURCES[found.kind] if found.kind is not None else feed_pb2.FEED_ITEM_SOURCE_UNSPECIFIED,
        place=feed_pb2.FeedItemPlace.ValueType(found.place),
        slot=found.slot,
        visible=found.visible,
        decision=found.decision,
        stages=[
            pb.FeedStage(name=stage.name, milliseconds=stage.seconds * 1_000, kept=stage.count)
            for stage in found.journal.stages
        ],
    )
    scores = found.scores
    if scores is not None:
        answer.quick_score, answer.quick_place = scores.quick_score, scores.quick_place
        answer.model_score, answer.model_place = scores.model_score, scores.model_place
        answer.model_version = scores.model_version
        for name, value in scores.features:
            answer.features.add(name=name, value=value)
    return answer


def watch_response(news: News, since_id: int) -> pb.WatchFeedResponse:
    """A message of a watch."""
    return pb.WatchFeedResponse(
        new_posts=news.new_posts,
        newest_id=news.newest_id,
        since_id=since_id,
        quality=feed_pb2.DEGRADED if news.reasons else feed_pb2.NORMAL,
    )
