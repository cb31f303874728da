"""What the group does about being behind, shared over Redis: every worker reports, all of them conclude the same.

All keys are on one node: when it is away the level stays as it is, and when it was emptied the level is found again
within seconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from fanout_worker.model import Lag, Level
from fanout_worker.stages.pressure import next_level
from foundation.background import in_background
from foundation.errors import DomainError
from foundation.model.clock import Clock
from foundation.redis.client import RedisCluster
from foundation.telemetry.logging import logger
from foundation.telemetry.metrics import FANOUT_LAG_DELIVERIES, FANOUT_LAG_SECONDS, FANOUT_LEVEL

LAGS = "fanout_pressure:{lags}"
"""Hash: worker to the JSON [seconds behind, ms when it said so]."""
LEVEL = "fanout_pressure:{lags}:level"
"""String: the level that the lag asks for."""
OVERRIDE = "fanout_pressure:{lags}:override"
"""String: an operator's Override as JSON, for as long as it lives."""
HISTORY = "fanout_pressure:{lags}:history"
"""List: what was changed by whom, newest first, JSON."""
HISTORY_LENGTH = 100
HEARD_WITHIN_MS = 10_000
"""A worker that said nothing for so long counts no more: its records have other owners by now."""
LIFE_S = 3_600


@dataclass(slots=True, frozen=True, kw_only=True)
class Override:
    """An operator's word on the level."""

    level: Level
    until_ms: int
    who: str
    why: str


@dataclass(slots=True, frozen=True, kw_only=True)
class Standing:
    """How things stand for the whole group."""

    level: Level
    """In force."""
    by_lag: Level
    """Without the override."""
    override: Override | None
    seconds: float
    """Behind, the worst of the workers."""
    workers: int
    """That reported lately."""


class SharedPressure:
    """fanout_worker.ports.Levels for one worker, and its part in finding the level."""

    def __init__(
        self,
        redis: RedisCluster,
        measure: Callable[[], Awaitable[Lag]],
        clock: Clock,
        *,
        worker: str,
        highest_by_lag: Level,
    ) -> None:
        self._redis = redis
        self._measure = measure
        self._clock = clock
        self._worker = worker
        self._highest_by_lag = highest_by_lag
        self._level = Level.NORMAL

    def now(self) -> Level:
        return self._level

    @asynccontextmanager
    async def watching(self, every_s: float) -> AsyncIterator[None]:
        """Owns a task that reports and looks *every_s*; the level is known when this is entered, if Redis answers."""
        await self._try()
        async with in_background(self._watch(every_s), name="fan-out pressure"):
            yield

    async def look(self) -> Standing:
        """Report, conclude, and obey. Raises Unavailable: then the level stays."""
        lag = await self._measure()
        report = json.dumps([lag.seconds, self._clock.now_ms()])
        await self._redis.execute([("HSET", LAGS, self._worker, report), ("EXPIRE", LAGS, LIFE_S)])
        standing = await read_standing(self._redis, self._clock)
        by_lag = min(self._highest_by_lag, next_level(standing.by_lag, Lag(standing.seconds, lag.deliveries)))
        await self._redis.execute([("SET", LEVEL, int(by_lag), "EX", LIFE_S)])
        if by_lag is not standing.by_lag:
            change = {"level": int(by_lag), "seconds": standing.seconds, "deliveries": lag.deliveries}
            await _remember(self._redis, self._clock, {**change, "who": "lag"})
        self._obey(standing.override, by_lag)
        FANOUT_LAG_SECONDS.set(standing.seconds)
        FANOUT_LAG_DELIVERIES.set(lag.deliveries)
        return standing

    def _obey(self, override: Override | None, by_lag: Level) -> None:
        level = by_lag if override is None else override.level
        if level is not self._level:
            who, why = ("lag", "") if override is None else (override.who, override.why)
            logger.warning("fanout_level", level=int(level), before=int(self._level), who=who, why=why)
        self._level = level
        FANOUT_LEVEL.set(level)

    async def _watch(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._try()

    async def _try(self) -> None:
        try:
            await self.look()
        except DomainError as failure:
            logger.warning("fanout_pressure_unknown", reason=failure.reason, level=int(self._level))


async def read_standing(redis: RedisCluster, clock: Clock) -> Standing:
    """How things stand, as workers last said. Raises Unavailable."""
    lags, level, word = await redis.execute([("HVALS", LAGS), ("GET", LEVEL), ("GET", OVERRIDE)])
    since = clock.now_ms() - HEARD_WITHIN_MS
    heard = [seconds for seconds, said_ms in map(json.loads, lags) if said_ms >= since]
    by_lag = Level(int(level)) if level else Level.NORMAL
    override = _override(word) if word else None
    return Standing(
        level=by_lag if override is None else override.level,
        by_lag=by_lag,
        override=override,
        seconds=max(heard, default=0.0),
        workers=len(heard),
    )


async def set_override(redis: RedisCluster, clock: Clock, override: Override) -> None:
    """Workers obey within a second or two, until its time is over. Raises Unavailable."""
    told = {**asdict(override), "level": int(override.level)}
    life_ms = max(1, override.until_ms - clock.now_ms())
    await redis.execute([("SET", OVERRIDE, json.dumps(told), "PX", life_ms)])
    await _remember(redis, clock, told)


async def clear_override(redis: RedisCluster, clock: Clock, *, who: str) -> bool:
    """Back to what the lag asks for; whether there was an override. Raises Unavailable."""
    (gone,) = await redis.execute([("DEL", OVERRIDE)])
    if gone:
        await _remember(redis, clock, {"level": None, "who": who, "why": "cleared"})
    return bool(gone)


async def read_history(redis: RedisCluster, newest: int) -> Sequence[dict[str, object]]:
    """The newest changes of the level, newest first. Raises Unavailable."""
    (kept,) = await redis.execute([("LRANGE", HISTORY, 0, newest - 1)])
    return [json.loads(one) for one in kept]


async def _remember(redis: RedisCluster, clock: Clock, change: dict[str, object]) -> None:
    told = json.dumps({"at_ms": clock.now_ms(), **change})
    await redis.execute([("LPUSH", HISTORY, told), ("LTRIM", HISTORY, 0, HISTORY_LENGTH - 1)])


def _override(word: bytes) -> Override:
    told = json.loads(word)
    return Override(level=Level(told["level"]), until_ms=told["until_ms"], who=told["who"], why=told["why"])
