"""Homes over Redis: what belongs to one viewer shares a hash tag, so one write to one node reads it."""

from __future__ import annotations

from feed_svc.adapters.kept_cards import KeptCards
from feed_svc.adapters.seen_redis import decode_seen, seen_key
from feed_svc.adapters.sessions_redis import decode_session, newest_session_commands
from feed_svc.degradation import note
from feed_svc.model import NOTHING_SEEN, OWN_POSTS, Degraded, Home, Recommended, Session
from foundation.errors import Unavailable
from foundation.recommendations import decode_recommendations, recommendations_key
from foundation.redis.client import Command, RedisCluster
from foundation.timeline.port import CAPACITY
from foundation.timeline.redis import AUTHOR_POSTS, FEED, parse_newest, read_newest_commands, touch_command
from foundation.viewers import ViewerRecord, decode_viewer, viewer_key


class RedisHomes:
    """feed_svc.ports.Homes."""

    def __init__(self, redis: RedisCluster, kept: KeptCards, *, read_within_s: float, recommendations: bool) -> None:
        self._redis = redis
        self._kept = kept
        self._read_within_s = read_within_s
        self._recommendations = recommendations

    async def load(self, viewer_id: int, *, for_head: bool = False, newest: int = CAPACITY) -> Home:
        copy, changes = self._kept.question(viewer_id)
        commands: list[Command] = [
            ("GET", viewer_key(viewer_id)),
            *read_newest_commands(FEED, viewer_id, newest),
            touch_command(FEED, viewer_id),
            *read_newest_commands(AUTHOR_POSTS, viewer_id, OWN_POSTS),
        ]
        if for_head:
            commands.append(("GET", seen_key(viewer_id)))
            if self._recommendations:
                commands.append(("GET", recommendations_key(viewer_id)))
        commands.append(changes)
        replies = await self._redis.try_execute(commands, timeout_s=self._read_within_s)
        self._kept.check(copy, replies.pop())
        packed = replies.pop() if for_head and self._recommendations else None
        for reply in replies:
            if isinstance(reply, Unavailable):
                raise reply
            if isinstance(reply, Exception):
                raise Unavailable("CACHE_UNAVAILABLE", "the cache holds something else than a home") from reply
        record, end, elements, _, own_end, own, *seen = replies
        return Home(
            viewer=decode_viewer(record) if record is not None else None,
            timeline=parse_newest(end, elements),
            own=parse_newest(own_end, own),
            seen=decode_seen(seen[0]) if seen else NOTHING_SEEN,
            recommended=_recommended(packed) if packed is not None else None,
        )

    async def resume(self, viewer_id: int) -> tuple[ViewerRecord | None, Session | None]:
        copy, changes = self._kept.question(viewer_id)
        commands: list[Command] = [("GET", viewer_key(viewer_id)), *newest_session_commands(viewer_id), changes]
        replies = await self._redis.try_execute(commands, timeout_s=self._read_within_s)
        self._kept.check(copy, replies.pop())
        for reply in replies:
            if isinstance(reply, Exception):
                raise Unavailable("CACHE_UNAVAILABLE", "the cache holds something else than a session") from reply
        record, frozen, _ = replies
        viewer = decode_viewer(record) if record is not None else None
        return viewer, decode_session(frozen) if frozen is not None else None


def _recommended(packed: bytes | Exception) -> Recommended | None:
    """A head is as good without them: what cannot be read is only told."""
    found = decode_recommendations(packed) if isinstance(packed, bytes) else None
    if found is None:
        note(Degraded.RECOMMENDATIONS_UNAVAILABLE)
        return None
    return Recommended(*found)
