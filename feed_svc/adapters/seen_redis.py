"""Seen posts over Redis: `seen:{u}`, the viewer's newest marks as one string on the viewer's own node.

Layout 1, little endian: u8 layout, then post ids as i64 in the order they were marked. A string rather than a set: the
read of a feed takes it whole in the call that brings the home, and a mark is an append.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from feed_svc.model import NOTHING_SEEN, Seen
from foundation.errors import Unavailable
from foundation.redis.client import RedisCluster
from foundation.redis.scripts import load_script

KEPT = 2_000
"""Marks of one viewer; more than four days of someone who sees 500 posts a day. 16 KB."""
SLACK = 200
"""Marks above KEPT at which they are cut back to KEPT."""
TTL_S = 7 * 86_400
"""Life since the last mark: posts older than that are in no feed."""
_LAYOUT = b"\x01"
_MARK_BYTES = 8
_MARK_SEEN = load_script("feed_svc.adapters", "mark_seen")


def seen_key(viewer_id: int) -> str:
    """Redis key; the braces put all keys of one user on one node."""
    return f"seen:{{{viewer_id}}}"


def decode_seen(record: bytes | None) -> Seen:
    """The marks in a record, ascending; none for an absent record or an unknown layout."""
    if record is None or record[:1] != _LAYOUT or (len(record) - 1) % _MARK_BYTES:
        return NOTHING_SEEN
    return np.sort(np.frombuffer(record, "<i8", offset=1))


class RedisSeenPosts:
    """feed_svc.ports.SeenPosts."""

    def __init__(self, redis: RedisCluster, *, kept: int = KEPT, slack: int = SLACK) -> None:
        self._redis = redis
        self._kept = kept
        self._slack = slack

    async def mark(self, viewer_id: int, post_ids: Sequence[int]) -> None:
        key = seen_key(viewer_id)
        (record,) = await self._redis.execute([("GET", key)])
        known = set(decode_seen(record).tolist())
        # Only what is new takes room. Two calls at once may both add a mark: it is there twice, which changes nothing.
        new = [post_id for post_id in dict.fromkeys(post_ids) if post_id not in known]
        marks = np.frombuffer(array("q", new), dtype=np.int64).astype("<i8", copy=False).tobytes()
        bounds = (self._kept * _MARK_BYTES, (self._kept + self._slack) * _MARK_BYTES)
        for reply in await self._redis.run(_MARK_SEEN, [(key, marks)], common=(_LAYOUT, *bounds, TTL_S)):
            if isinstance(reply, Exception):
                raise Unavailable("CACHE_UNAVAILABLE", "the cache node did not answer") from reply
