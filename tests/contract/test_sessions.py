"""The contracts of sessions and homes (feed_svc.ports.Sessions, Homes), over a real Valkey."""

from __future__ import annotations

import struct

import pytest

from feed_svc.adapters.homes_redis import RedisHomes
from feed_svc.adapters.kept_cards import KeptCards
from feed_svc.adapters.sessions_redis import KEPT, TTL_S, RedisSessions, session_key
from feed_svc.model import OWN_POSTS, Session
from foundation.errors import Unavailable
from foundation.model.clock import SystemClock
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
    return RedisHomes(redis, KeptCards(SystemClock(), capacity=0), read_within_s=1.0, recommendations=False)


async def test_a_session_is_read_as_it_was_frozen_by_its_owner_alone(sessions: RedisSessions) -> None:
    frozen = Session(2**64 - 1, BIG, [BIG, 7, BIG - 1], author_ids=[ANA, BO, ANA])
    await sessions.save(ANA, frozen)
    assert await sessions.load(ANA, frozen.session_id) == frozen
    assert await sessions.load(ANA, 5) is None
    assert await sessions.load(BO, frozen.session_id) is None


async def test_a_session_knows_which_of_its_posts_were_recommended(sessions: RedisSessions) -> None:
    frozen = Session(1, BIG, [BIG, 7, BIG - 1], frozenset({7, BIG}), [ANA, BO, 0])
    await sessions.save(ANA, frozen)
    assert await sessions.load(ANA, 1) == frozen
    assert await sessions.newest(ANA) == [frozen]


async def test_a_session_that_was_frozen_by_an_earlier_version_goes_on(
    redis: RedisCluster, sessions: RedisSessions
) -> None:
    await redis.execute([("LPUSH", session_key(ANA), struct.pack("<BQqqq", 1, 5, BIG, BIG, 7))])
    await redis.execute([("LPUSH", session_key(ANA), struct.pack("<BQqqq", 2, 6, BIG, BIG, -7))])
    assert await sessions.load(ANA, 5) == Session(5, BIG, [BIG, 7])
    assert await sessions.load(ANA, 6) == Session(6, BIG, [BIG, 7], frozenset({7}))


async def test_the_newest_session_comes_with_the_viewer_record_and_lives_on(
    redis: RedisCluster, sessions: RedisSessions, homes: RedisHomes
) -> None:
    assert await homes.resume(ANA) == (None, None)
    record = encode_viewer(version=1, state=UserState.ACTIVE, follows=[BO], blocks=[7], mutes=(), pulled=[BO])
    await redis.execute([("SET", viewer_key(ANA), record)])
    older, newer = Session(1, BIG, [BIG, 7], frozenset(), [ANA, BO]), Session(2, 9, [9])
    await sessions.save(ANA, older)
    await sessions.save(ANA, newer)
    await redis.execute([("EXPIRE", session_key(ANA), 5)])
    viewer, session = await homes.resume(ANA)
    assert viewer is not None
    assert (viewer.follows, viewer.blocks, viewer.mutes, viewer.pulled) == ({BO}, {7}, set(), {BO})
    assert session is not None
    assert (session.session_id, session.ids) == (2, [9])
    (left_s,) = await redis.execute([("TTL", session_key(ANA))])
    assert TTL_S - 5 <= left_s <= TTL_S
    await redis.execute([("DEL", session_key(ANA)), ("SET", session_key(ANA), 1)])
    with pytest.raises(Unavailable):
        await homes.resume(ANA)


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
    await sessions.save(ANA, Session(5, 9, [9], frozenset(), [BO]))
    (record,) = await redis.execute([("LINDEX", session_key(ANA), 0)])
    await redis.execute([("DEL", session_key(ANA))])
    for unreadable in (b"\xffanother layout of later days", record[:-3], record[:12], b""):
        await redis.execute([("LPUSH", session_key(ANA), unreadable)])
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


async def test_a_home_holds_the_newest_of_a_list_and_what_was_not_asked_for_is_its_floor(
    redis: RedisCluster, homes: RedisHomes
) -> None:
    lists = RedisTimelines(redis, FEED)
    assert await lists.begin(ANA, "t", 3)
    assert (await homes.load(ANA, newest=2)).timeline is None, "one that is being rebuilt"
    await lists.push([ANA], BIG)
    await lists.push([ANA], BIG + 1)
    await lists.push([ANA], BIG + 2)
    assert (await homes.load(ANA, newest=2)).timeline is None, "though the newest were pushed"
    assert await lists.commit(ANA, "t", [9, 8], 3)
    assert (await homes.load(ANA, newest=2)).timeline == Timeline([BIG + 2, BIG + 1], BIG)
    assert (await homes.load(ANA, newest=4)).timeline == Timeline([BIG + 2, BIG + 1, BIG, 9], 8)
    assert (await homes.load(ANA, newest=5)).timeline == Timeline([BIG + 2, BIG + 1, BIG, 9, 8], 3)
    assert (await homes.load(ANA, newest=6)).timeline == (await homes.load(ANA)).timeline


async def test_a_home_holds_the_newest_own_posts(redis: RedisCluster, homes: RedisHomes) -> None:
    own = RedisTimelines(redis, AUTHOR_POSTS)
    assert await own.begin(ANA, "t", 3)
    assert await own.commit(ANA, "t", range(10, 11 + OWN_POSTS), 3)
    assert (await homes.load(ANA)).own == Timeline(list(range(10 + OWN_POSTS, 10, -1)), 10)


@pytest.mark.parametrize("element", [b"\xff\xfe", b"seven", b"{}x"])
async def test_a_list_that_nobody_can_read_is_no_list(redis: RedisCluster, homes: RedisHomes, element: bytes) -> None:
    await redis.execute([("LPUSH", timeline_key(FEED, ANA), element)])
    with pytest.raises(Unavailable):
        await homes.load(ANA)
    await redis.execute([("SET", timeline_key(FEED, BO), 1)])
    with pytest.raises(Unavailable):
        await homes.load(BO)
