"""Recommendations over Redis: one packed string on the viewer's own node."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.errors import Internal
from foundation.recommendations import TTL_S, decode_recommendations, encode_recommendations, recommendations_key
from foundation.redis.client import RedisCluster


class RedisRecommendations:
    """rank_svc.ports.Recommendations."""

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis

    async def made_ms(self, viewer_id: int) -> int:
        try:
            (record,) = await self._redis.execute([("GET", recommendations_key(viewer_id))])
        except Internal:
            return 0  # another type of value: it is replaced
        found = decode_recommendations(record) if record is not None else None
        return found[1] if found is not None else 0

    async def put(self, viewer_id: int, post_ids: Sequence[int], made_ms: int) -> None:
        record = encode_recommendations(post_ids, made_ms)
        await self._redis.execute([("SET", recommendations_key(viewer_id), record, "EX", TTL_S)])
