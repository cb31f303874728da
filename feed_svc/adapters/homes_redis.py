"""Homes over Redis: viewer record, timeline and own posts share a hash tag, so one write to one node reads them."""

from __future__ import annotations

from feed_svc.model import Home
from foundation.redis.client import RedisCluster
from foundation.timeline.port import TTL_S
from foundation.timeline.redis import AUTHOR_POSTS, FEED, parse_timeline, timeline_key
from foundation.viewers import decode_viewer, viewer_key


class RedisHomes:
    """feed_svc.ports.Homes."""

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis

    async def load(self, viewer_id: int) -> Home:
        feed = timeline_key(FEED, viewer_id)
        record, elements, _, own = await self._redis.execute(
            [
                ("GET", viewer_key(viewer_id)),
                ("LRANGE", feed, 0, -1),
                ("EXPIRE", feed, TTL_S, "GT"),
                ("LRANGE", timeline_key(AUTHOR_POSTS, viewer_id), 0, -1),
            ]
        )
        return Home(
            viewer=decode_viewer(record) if record is not None else None,
            timeline=parse_timeline(elements),
            own=parse_timeline(own),
        )
