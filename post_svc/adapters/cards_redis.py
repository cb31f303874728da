"""Cards over Redis, by compare-version: a late fill never replaces an edit or a tombstone."""

from __future__ import annotations

from collections.abc import Sequence

from feedmesh.post.v1.post_pb2 import Location
from feedmesh.post.v1.post_pb2 import Post as PostMessage

from foundation.cards import TTL_S, card_key, encode_card
from foundation.model.ids import created_ms
from foundation.redis.client import RedisCluster
from foundation.redis.versioned import set_if_newer
from foundation.visibility import PostState
from post_svc.model import Post


class RedisCards:
    """post_svc.ports.Cards."""

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis

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
