"""The contract of presence (feed_svc.ports.Presence), over a real Valkey."""

from __future__ import annotations

import pytest

from feed_svc.adapters import presence_redis
from feed_svc.adapters.presence_redis import (
    ACTIVE_USERS_KEY,
    AGAIN_S,
    MOST_WAITING,
    TTL_S,
    RedisPresence,
    last_active_key,
)
from foundation.model.clock import DAY_MS, Millis, SystemClock
from foundation.redis.client import RedisCluster
from foundation.telemetry.metrics import ACTIVE_USERS

ANA, BO = 11, 12


class MovedClock:
    """The time of now, moved."""

    def __init__(self) -> None:
        self.by_s = 0.0
        self._now_ms = SystemClock().now_ms()

    def now_ms(self) -> Millis:
        return Millis(self._now_ms + int(self.by_s * 1_000))

    def monotonic(self) -> float:
        return 1_000.0 + self.by_s


async def last_active(redis: RedisCluster, user: int) -> int:
    (told,) = await redis.execute([("GET", last_active_key(user))])
    return int(told or 0)


async def counted(redis: RedisCluster) -> int:
    (count,) = await redis.execute([("PFCOUNT", ACTIVE_USERS_KEY)])
    return int(count)


async def test_who_reads_is_told_once_in_a_while_and_counted_once(redis: RedisCluster) -> None:
    clock = MovedClock()
    presence = RedisPresence(redis, clock)
    began_ms = clock.now_ms()
    for _ in range(3):
        presence.reads(ANA)
    await presence.tell()
    clock.by_s = AGAIN_S - 1
    presence.reads(ANA)
    presence.reads(BO)
    await presence.tell()
    assert (await last_active(redis, ANA), await last_active(redis, BO)) == (began_ms, clock.now_ms())
    clock.by_s = AGAIN_S
    presence.reads(ANA)
    await presence.tell()
    assert await last_active(redis, ANA) == clock.now_ms()
    assert await counted(redis) == 2
    assert ACTIVE_USERS._value.get() == 2
    left_s, day_left_s = await redis.execute([("TTL", last_active_key(ANA)), ("TTL", ACTIVE_USERS_KEY)])
    assert TTL_S - 5 <= left_s <= TTL_S
    assert 0 < day_left_s <= DAY_MS // 1_000 + AGAIN_S


async def test_what_is_left_is_told_at_the_end(redis: RedisCluster) -> None:
    presence = RedisPresence(redis, SystemClock())
    async with presence.running():
        presence.reads(ANA)
    assert await counted(redis) == 1


async def test_what_is_remembered_and_what_waits_is_bounded(
    redis: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_redis, "REMEMBERED", 5)
    presence = RedisPresence(redis, SystemClock())
    for viewer in range(1, MOST_WAITING + 100):
        presence.reads(viewer)
    assert len(presence._told) == 5
    assert len(presence._waiting) == MOST_WAITING
    presence.reads(7)
    await presence.tell()
    assert abs(await counted(redis) - MOST_WAITING) < MOST_WAITING / 20


async def test_a_key_that_holds_something_else_keeps_nobody_from_being_told_of(redis: RedisCluster) -> None:
    presence = RedisPresence(redis, SystemClock())
    await redis.execute([("SET", ACTIVE_USERS_KEY, "no such thing")])
    presence.reads(ANA)
    await presence.tell()
    assert await last_active(redis, ANA)
