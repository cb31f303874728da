"""Keys that the whole mesh reads too often, known to every process: `hot_keys`.

Each process samples the commands it sends (never what its nodes do: MONITOR costs them half their speed). Who sees a
key above HOT_READS_PER_S in a window writes it into `hot_keys`, where it stays for an hour since it was last seen so;
every process reads that once a window. Where a hot key may be cached is for the readers to know: author timelines and
features for a second, never cards, edges or blocks (rule 6). A key that is cached is read less, is not written again,
and cools.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from foundation.background import in_background
from foundation.errors import DomainError
from foundation.model.clock import Clock
from foundation.redis.client import RedisCluster
from foundation.redis.sampling import KeySampler
from foundation.telemetry.logging import logger

HOT_KEYS = "hot_keys"
"""Sorted set: key, until when it is hot in ms since 1970."""
HOT_FOR_S = 3_600
WINDOW_S = 10.0
HOT_READS_PER_S = 1_000
"""Reads of one key by one process: a hundredth of what a node does."""
MAX_HOT_KEYS = 1_000
"""Those that stay hot for longest are kept."""


class HotKeys:
    """What one process knows of hot keys; `running()` keeps it up to date. One for each client."""

    def __init__(self, redis: RedisCluster, clock: Clock, *, hot_reads_per_s: float = HOT_READS_PER_S) -> None:
        self._redis = redis
        self._clock = clock
        self._hot_reads_per_s = hot_reads_per_s
        self._sampler = redis.sampler = KeySampler()
        self._hot: frozenset[str] = frozenset()
        self._owners_of: dict[str, frozenset[int]] = {}
        self._window_began = clock.monotonic()

    def is_hot(self, key: str) -> bool:
        """Whether *key* may be served from a process's memory for a moment, as of the last window."""
        return key in self._hot

    def owners(self, family: str) -> frozenset[int]:
        """Each n of whom `family:{n}` is hot, as of the last window: a set, to be asked about many at once."""
        owners = self._owners_of.get(family)
        if owners is None:
            shape = re.compile(re.escape(family) + r":\{(\d+)\}")
            owners = frozenset(int(match[1]) for match in map(shape.fullmatch, self._hot) if match)
            self._owners_of[family] = owners
        return owners

    async def turn(self) -> None:
        """End the window: tell of keys that were hot in it, learn of those that others told of. Never raises."""
        now_s = self._clock.monotonic()
        seconds = max(now_s - self._window_began, 1.0)
        self._window_began = now_s
        reads = self._sampler.window()
        seen = [key for key, count in reads.items() if count >= self._hot_reads_per_s * seconds and key != HOT_KEYS]
        now_ms = self._clock.now_ms()
        try:
            *_, hot = await self._redis.execute(
                [
                    *(("ZADD", HOT_KEYS, now_ms + HOT_FOR_S * 1_000, key) for key in seen),
                    ("ZREMRANGEBYSCORE", HOT_KEYS, "-inf", now_ms),
                    ("ZREMRANGEBYRANK", HOT_KEYS, 0, -MAX_HOT_KEYS - 1),
                    ("EXPIRE", HOT_KEYS, HOT_FOR_S),
                    ("ZRANGE", HOT_KEYS, 0, -1),
                ]
            )
        except DomainError as failure:
            # What was hot stays so: a node under such a load may well be late.
            logger.warning("hot_keys_unknown", reason=failure.reason)
            return
        self._hot = frozenset(key.decode(errors="replace") for key in hot)
        self._owners_of = {}
        for key in seen:
            logger.info("hot_key", key=key, reads_per_s=round(reads[key] / seconds))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[HotKeys]:
        """Owns a task that turns every WINDOW_S."""
        async with in_background(self._run(), name="hot keys"):
            yield self

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WINDOW_S)
            await self.turn()
