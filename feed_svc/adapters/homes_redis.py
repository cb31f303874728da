"""Homes over Redis: what belongs to one viewer shares a hash tag, so one write to one node reads it."""

from __future__ import annotations

from feed_svc.adapters.seen_redis import decode_seen, seen_key
from feed_svc.model import NOTHING_SEEN, Home
from foundation.errors import Internal, Unavailable
from foundation.redis.client import Command, RedisCluster
from foundation.timeline.redis import AUTHOR_POSTS, FEED, parse_timeline, read_commands, timeline_key
from foundation.viewers import decode_viewer, viewer_key


class RedisHomes:
    """feed_svc.ports.Homes."""

    def __init__(self, redis: RedisCluster, *, read_within_s: float) -> None:
        self._redis = redis
        self._read_within_s = read_within_s

    async def load(self, viewer_id: int, *, with_seen: bool = False) -> Home:
        commands: list[Command] = [
            ("GET", viewer_key(viewer_id)),
            *read_commands(FEED, viewer_id),
            ("LRANGE", timeline_key(AUTHOR_POSTS, viewer_id), 0, -1),
        ]
        if with_seen:
            commands.append(("GET", seen_key(viewer_id)))
        try:
            record, elements, _, own, *seen = await self._redis.execute(commands, timeout_s=self._read_within_s)
        except Internal as failure:
            raise Unavailable("CACHE_UNAVAILABLE", "the cache holds something else than a home") from failure
        return Home(
            viewer=decode_viewer(record) if record is not None else None,
            timeline=parse_timeline(elements),
            own=parse_timeline(own),
            seen=decode_seen(seen[0]) if seen else NOTHING_SEEN,
        )
