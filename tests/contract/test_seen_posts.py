"""The contract of seen posts (feed_svc.ports.SeenPosts) and how they are read with a home, over a real Valkey."""

from __future__ import annotations

import pytest

from feed_svc.adapters.homes_redis import RedisHomes
from feed_svc.adapters.kept_cards import KeptCards
from feed_svc.adapters.seen_redis import TTL_S, RedisSeenPosts, seen_key
from foundation.model.clock import SystemClock
from foundation.redis.client import RedisCluster

ANA, BO = 11, 12
BIG = 2**62


@pytest.fixture
def seen(redis: RedisCluster) -> RedisSeenPosts:
    return RedisSeenPosts(redis, kept=6, slack=3)


def homes_of(redis: RedisCluster) -> RedisHomes:
    return RedisHomes(redis, KeptCards(SystemClock(), capacity=0), read_within_s=1.0, recommendations=False)


async def marks(redis: RedisCluster, viewer: int = ANA) -> list[int]:
    return (await homes_of(redis).load(viewer, for_head=True)).seen.tolist()


async def test_marks_are_read_with_the_home_and_only_where_asked_for(redis: RedisCluster, seen: RedisSeenPosts) -> None:
    assert await marks(redis) == []
    await seen.mark(ANA, [BIG + 1, BIG, 7])
    await seen.mark(ANA, [BIG + 2])
    assert await marks(redis) == [7, BIG, BIG + 1, BIG + 2]
    assert await marks(redis, BO) == []
    assert (await homes_of(redis).load(ANA)).seen.tolist() == []


async def test_a_repeated_mark_takes_no_room(redis: RedisCluster, seen: RedisSeenPosts) -> None:
    for _ in range(5):
        await seen.mark(ANA, [1, 2, 2, 3])
    (record,) = await redis.execute([("GET", seen_key(ANA))])
    assert len(record) == 1 + 3 * 8


async def test_the_newest_marks_are_kept(redis: RedisCluster, seen: RedisSeenPosts) -> None:
    for post_id in range(1, 10):
        await seen.mark(ANA, [post_id])
    assert await marks(redis) == list(range(1, 10)), "kept and slack"
    await seen.mark(ANA, [10])
    assert await marks(redis) == list(range(5, 11))
    await seen.mark(ANA, list(range(100, 120)))
    assert await marks(redis) == list(range(114, 120))


async def test_marks_live_since_the_last_one(redis: RedisCluster, seen: RedisSeenPosts) -> None:
    await seen.mark(ANA, [1])
    await redis.execute([("EXPIRE", seen_key(ANA), 5)])
    await seen.mark(ANA, [1])
    (left_s,) = await redis.execute([("TTL", seen_key(ANA))])
    assert TTL_S - 5 <= left_s <= TTL_S
    for post_id in range(2, 30):
        await seen.mark(ANA, [post_id])
    (left_s,) = await redis.execute([("TTL", seen_key(ANA))])
    assert left_s > 0, "a cut keeps it mortal"


@pytest.mark.parametrize("record", [b"", b"\x01abc", b"\x63" + bytes(16)])
async def test_a_record_of_another_layout_is_a_miss_and_begun_anew(
    redis: RedisCluster, seen: RedisSeenPosts, record: bytes
) -> None:
    await redis.execute([("SET", seen_key(ANA), record)])
    assert await marks(redis) == []
    if record[:1] == b"\x63":
        await seen.mark(ANA, [4])
        assert await marks(redis) == [4]
