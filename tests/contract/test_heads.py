"""The contract of heads (feed_svc.ports.Heads), over a real Valkey."""

from __future__ import annotations

from feed_svc.adapters.heads_redis import LISTS_AT_ONCE, RedisHeads
from feed_svc.model import HeadMark
from foundation.redis.client import RedisCluster, connect
from foundation.timeline.redis import AUTHOR_POSTS, FEED, RedisTimelines
from tests.kit.valkey import ValkeyCluster

ANA, BO = 11, 12
BIG = 2**62 + 1


async def test_a_mark_is_the_newest_id_and_the_length(redis: RedisCluster) -> None:
    feeds, authors = RedisTimelines(redis, FEED), RedisTimelines(redis, AUTHOR_POSTS)
    heads = RedisHeads(redis)
    for timelines, owner in ((feeds, ANA), (authors, BO)):
        await timelines.begin(owner, "t", 5)
        await timelines.commit(owner, "t", [BIG, 7], 5)
    marks = await heads.marks([ANA, BO], [ANA, BO])
    assert marks.feeds == {ANA: HeadMark(BIG, 3), BO: HeadMark(0, 0)}
    assert marks.authors == {BO: HeadMark(BIG, 3), ANA: HeadMark(0, 0)}
    await feeds.push([ANA], 9)
    assert (await heads.marks([ANA], [])).feeds == {ANA: HeadMark(BIG, 4)}, "below the head shows too"


async def test_a_list_that_is_being_built_is_cold(redis: RedisCluster) -> None:
    feeds = RedisTimelines(redis, FEED)
    await feeds.begin(ANA, "t", 5)
    assert (await RedisHeads(redis).marks([ANA], [])).feeds == {ANA: HeadMark(0, 0)}


async def test_as_many_as_there_are(redis: RedisCluster) -> None:
    owners = list(range(1, 2 * LISTS_AT_ONCE + 8))
    marks = await RedisHeads(redis).marks(owners, [])
    assert marks.feeds == dict.fromkeys(owners, HeadMark(0, 0))


async def test_a_dead_node_has_no_marks_and_the_others_have_theirs(valkey_cluster: ValkeyCluster) -> None:
    redis = await connect(valkey_cluster.addresses, timeout_s=1.0)
    heads = RedisHeads(redis)
    owners = list(range(1, 31))
    assert len((await heads.marks(owners, owners)).authors) == len(owners)
    valkey_cluster.kill(1)
    marks = await heads.marks(owners, owners)
    assert 0 < len(marks.feeds) < len(owners)
    assert marks.feeds == marks.authors
    await redis.close()
