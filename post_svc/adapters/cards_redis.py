"""Cards over Redis, by compare-version: a late fill never replaces an edit or a tombstone."""

from __future__ import annotations

from collections.abc import Sequence

from feedmesh.post.v1.post_pb2 import Location
from feedmesh.post.v1.post_pb2 import Post as PostMessage

from foundation.card_changes import RedisCardChanges
from foundation.cards import TTL_S, card_key, encode_card
from foundation.model.ids import created_ms
from foundation.redis.client import RedisCluster
from foundation.redis.versioned import set_if_newer
from foundation.visibility import PostState
from post_svc.model import Post


class RedisCards:
    """post_svc.ports.Cards."""

    def __init__(self, redis: RedisCluster, changes: RedisCardChanges) -> None:
        self._redis = redis
        self._changes = changes

    def encode(self, post: Post) -> bytes:
        message = PostMessage(post_id=post.post_id, caption=post.draft.caption, hashtags=post.draft.hashtags)
        if post.draft.location_id:
            message.location.CopyFrom(Location(id=post.draft.location_id))
        message.created_at.FromMilliseconds(created_ms(post.post_id))
        return message.SerializeToString()

    def record(self, post: Post) -> bytes:
        encoded = self.encode(post) if post.state is PostState.ACTIVE else b""
        return encode_card(author_id=post.author_id, state=post.state, version=post.version, encoded=encoded)

    async def tell(self, posts: Sequence[Post], *, timeout_s: float) -> None:
        records = [(card_key(post.post_id), self.record(post)) for post in posts]
        await set_if_newer(self._redis, records, ttl_s=TTL_S, timeout_s=timeout_s)

    async def retell(self, posts: Sequence[Post], *, timeout_s: float) -> None:
        await self.tell(posts, timeout_s=timeout_s)
        # Only now: whoever drops what they kept and reads again must find the new record.
        await self._changes.record([post.post_id for post in posts], timeout_s=timeout_s)
