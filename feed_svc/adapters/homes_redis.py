"""Homes over Redis: viewer record, timeline and own posts share a hash tag, so one write to one node reads them."""

from __future__ import annotations

from feed_svc.model import Home
from foundation.redis.client import RedisCluster
from foundation.timeline.redis import AUTHOR_POSTS, FEED, parse_timeline, read_commands, timeline_key
from foundation.viewers import decode_viewer, viewer_key


class RedisHomes:
    """feed_svc.ports.Homes."""

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis

    async def load(self, viewer_id: int) -> Home:
        record, elements, _, own = await self._redis.execute(
            [
                ("GET", viewer_key(viewer_id)),
                *read_commands(FEED, viewer_id),
                ("LRANGE", timeline_key(AUTHOR_POSTS, viewer_id), 0, -1),
            ]
        )
        return Home(
            viewer=decode_viewer(record) if record is not None else None,
            timeline=parse_timeline(elements),
            own=parse_timeline(own),
        )
