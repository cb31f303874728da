"""The contracts of sessions and homes (feed_svc.ports.Sessions, Homes), over a real Valkey."""

from __future__ import annotations

import struct

import pytest

from feed_svc.adapters.homes_redis import RedisHomes
from feed_svc.adapters.sessions_redis import KEPT, TTL_S, RedisSessions, session_key
from feed_svc.model import Session
from foundation.errors import Unavailable
from foundation.redis.client import RedisCluster
from foundation.timeline.port import Timeline
from foundation.timeline.redis import AUTHOR_POSTS, FEED, RedisTimelines, timeline_key
from foundation.viewers import encode_viewer, viewer_key
from foundation.visibility import UserState

ANA, BO = 11, 12
BIG = 2**62


@pytest.fixture
def sessions(redis: RedisCluster) -> RedisSessions:
    return RedisSessions(redis, within_s=1.0)


@pytest.fixture
def homes(redis: RedisCluster) -> RedisHomes:
    return RedisHomes(redis, read_within_s=1.0, recommendations=False)


async def test_a_session_is_read_as_it_was_frozen_by_its_owner_alone(sessions: RedisSessions) -> None:
    frozen = Session(2**64 - 1, BIG, [BIG, 7, BIG - 1])
    await sessions.save(ANA, frozen)
    assert await sessions.load(ANA, frozen.session_id) == frozen
    assert await sessions.load(ANA, 5) is None
    assert await sessions.load(BO, frozen.session_id) is None


async def test_a_session_knows_which_of_its_posts_were_recommended(sessions: RedisSessions) -> None:
    frozen = Session(1, BIG, [BIG, 7, BIG - 1], frozenset({7, BIG}))
    await sessions.save(ANA, frozen)
    assert await sessions.load(ANA, 1) == frozen
    assert await sessions.newest(ANA) == [frozen]


async def test_a_session_of_before_recommendations_goes_on(redis: RedisCluster, sessions: RedisSessions) -> None:
    await redis.execute([("LPUSH", session_key(ANA), struct.pack("<BQqqq", 1, 5, BIG, BIG, 7))])
    assert await sessions.load(ANA, 5) == Session(5, BIG, [BIG, 7])


async def test_the_newest_sessions_are_kept_for_a_while(redis: RedisCluster, sessions: RedisSessions) -> None:
    for number in range(1, KEPT + 2):
        await sessions.save(ANA, Session(number, number, [number]))
    assert [kept.session_id for kept in await sessions.newest(ANA)] == list(range(KEPT + 1, 1, -1))
    assert await sessions.load(ANA, 1) is None
    await redis.execute([("EXPIRE", session_key(ANA), 5)])
    await sessions.load(ANA, 2)
    (left_s,) = await redis.execute([("TTL", session_key(ANA))])
    assert TTL_S - 5 <= left_s <= TTL_S


async def test_sessions_that_nobody_can_read(redis: RedisCluster, sessions: RedisSessions) -> None:
    await redis.execute([("LPUSH", session_key(ANA), b"\xffanother layout of later days")])
    assert await sessions.newest(ANA) == []
    await redis.execute([("SET", session_key(BO), 1)])
    with pytest.raises(Unavailable):
        await sessions.load(BO, 1)


async def test_a_home_is_record_list_and_own_posts(redis: RedisCluster, homes: RedisHomes) -> None:
    cold = await homes.load(ANA)
    assert (cold.viewer, cold.timeline, cold.own) == (None, None, None)
    record = encode_viewer(version=1, state=UserState.ACTIVE, follows=[BO], blocks=(), mutes=(), pulled=[BO])
    await redis.execute([("SET", viewer_key(ANA), record)])
    for family, ids in ((FEED, [BIG, 9]), (AUTHOR_POSTS, [8])):
        lists = RedisTimelines(redis, family)
        assert await lists.begin(ANA, "t", 3)
        assert await lists.commit(ANA, "t", ids, 3)
    home = await homes.load(ANA)
    assert home.viewer is not None
    assert home.viewer.pulled == {BO}
    assert (home.timeline, home.own) == (Timeline([BIG, 9], 3), Timeline([8], 3))


@pytest.mark.parametrize("element", [b"\xff\xfe", b"seven", b"{}x"])
async def test_a_list_that_nobody_can_read_is_no_list(redis: RedisCluster, homes: RedisHomes, element: bytes) -> None:
    await redis.execute([("LPUSH", timeline_key(FEED, ANA), element)])
    with pytest.raises(Unavailable):
        await homes.load(ANA)
    await redis.execute([("SET", timeline_key(FEED, BO), 1)])
    with pytest.raises(Unavailable):
        await homes.load(BO)
