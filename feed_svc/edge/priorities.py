"""What FeedService's RPCs are worth when the server is full (foundation/rpc/admission.py)."""

from __future__ import annotations

from collections.abc import Mapping

from feedmesh.feed.v1 import feed_service_pb2 as pb

from foundation.rpc.admission import Priority
from foundation.rpc.server import Worth


def _get_feed(request: pb.GetFeedRequest) -> Priority:
    """Whoever scrolls has a page already; whoever opens the app has none."""
    return Priority.PREFETCH if request.cursor else Priority.USER


def _refresh_feed(request: pb.RefreshFeedRequest) -> Priority:
    return Priority.PREFETCH if request.count_only else Priority.USER


PRIORITIES: Mapping[str, Worth] = {
    "GetFeed": _get_feed,
    "RefreshFeed": _refresh_feed,
    "WatchFeed": Priority.PREFETCH,
}
