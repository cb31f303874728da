"""Who has been reading, over Redis: `last_active:{u}` for a day, and `active_users`, which counts each user once a day.

Told in batches, once in AGAIN_S for each viewer: a page costs a look-up for it, and no reply is waited for.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from foundation.background import in_background
from foundation.model.clock import DAY_MS, Clock
from foundation.redis.client import Command, RedisCluster
from foundation.telemetry.metrics import ACTIVE_USERS

ACTIVE_USERS_KEY = "active_users"
"""A HyperLogLog, forgotten at the end of the day (UTC)."""
TTL_S = 86_400
AGAIN_S = 600.0
"""A viewer who was told of is told of again after this: so exact `last_active:{u}` is."""
REMEMBERED = 100_000
"""Viewers who were told of; one who is forgotten is told of once too often."""
MOST_WAITING = 10_000
"""Viewers to be told of; more than so many a second are left out, and told of by their next page."""
EVERY_S = 1.0


def last_active_key(user_id: int) -> str:
    """Redis key: ms since 1970, as text. The braces put all keys of one user on one node."""
    return f"last_active:{{{user_id}}}"


class RedisPresence:
    """feed_svc.ports.Presence."""

    def __init__(self, redis: RedisCluster, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._told: OrderedDict[int, float] = OrderedDict()
        self._waiting: list[int] = []

    def reads(self, viewer_id: int) -> None:
        now_s = self._clock.monotonic()
        told_s = self._told.get(viewer_id)
        if (told_s is not None and now_s - told_s < AGAIN_S) or len(self._waiting) >= MOST_WAITING:
            return
        self._told[viewer_id] = now_s
        self._told.move_to_end(viewer_id)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        self._waiting.append(viewer_id)

    async def tell(self) -> None:
        """Write what waits, and learn how many there are. Never raises.

        What a node did not take is told when AGAIN_S have passed.
        """
        waiting, self._waiting = self._waiting, []
        now_ms = self._clock.now_ms()
        midnight_s = (now_ms // DAY_MS + 1) * DAY_MS // 1_000
        commands: list[Command] = [("SET", last_active_key(one), now_ms, "EX", TTL_S) for one in waiting]
        if waiting:
            commands.append(("PFADD", ACTIVE_USERS_KEY, *waiting))
            commands.append(("EXPIREAT", ACTIVE_USERS_KEY, midnight_s))
        *_, count = await self._redis.try_execute([*commands, ("PFCOUNT", ACTIVE_USERS_KEY)])
        if isinstance(count, int):
            ACTIVE_USERS.set(count)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What waits is told every EVERY_S while this is open, and at the end."""
        try:
            async with in_background(self._run(), name="presence"):
                yield
        finally:
            await self.tell()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self.tell()
