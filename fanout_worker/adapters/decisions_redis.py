"""Decisions in Redis, `fanout_route:{p}`: "route: reason", for a day."""

from __future__ import annotations

from collections.abc import Mapping

from fanout_worker.model import Decision, Route
from foundation.model.clock import DAY_MS
from foundation.redis.client import RedisCluster
from foundation.timeline.redis import route_key

LIFE_S = DAY_MS // 1_000


class RedisDecisions:
    """fanout_worker.ports.Decisions.

    Only what is not INLINE is kept, as that is the rule for all but a few posts, and a key for each of theirs would
    cost a fifth of delivering them.
    """

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis

    async def record(self, decided: Mapping[int, Decision]) -> None:
        await self._redis.try_execute(
            [
                ("SET", route_key(post_id), f"{decision.route}: {decision.reason}", "EX", LIFE_S)
                for post_id, decision in decided.items()
                if decision.route is not Route.INLINE
            ]
        )
