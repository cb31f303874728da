"""The contract of what authors wrote (feed_svc.ports.AuthorPosts): read through, and kept for a moment where hot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial

import pytest

from feed_svc.adapters.author_posts import ReadThroughAuthorPosts
from feed_svc.adapters.hot_timelines import HotAuthorPosts, HotTimelines, whole_timelines
from feed_svc.degradation import noting
from feed_svc.model import FEED_DEPTH_MS, Degraded
from feed_svc.ports import AuthorPosts
from foundation.model.clock import SystemClock
from foundation.model.ids import MAX_ID, id_at
from foundation.redis.client import RedisCluster, connect
from foundation.timeline.port import Timeline
from foundation.timeline.redis import AUTHOR_POSTS, RedisTimelines, timeline_key
from tests.kit.faults import Fault
from tests.kit.owners import Owners
from tests.kit.valkey import ValkeyCluster

CLOCK = SystemClock()


def read_through(redis: RedisCluster, owners: Owners) -> ReadThroughAuthorPosts:
    timelines = RedisTimelines(redis, AUTHOR_POSTS, read_within_s=0.2)
    return ReadThroughAuthorPosts(timelines, owners.to_posts, timeout_s=0.3)


@pytest.fixture(params=["read through", "hot"])
async def author_posts(
    request: pytest.FixtureRequest, redis: RedisCluster, owners: Owners
) -> AsyncIterator[AuthorPosts]:
    plain = read_through(redis, owners)
    if request.param == "read through":
        yield plain
        return
    hot = HotTimelines(partial(whole_timelines, plain, CLOCK), CLOCK)
    yield HotAuthorPosts(plain, hot, frozenset)
    await hot.close()


async def below(
    author_posts: AuthorPosts, *author_ids: int, before_id: int = MAX_ID, limit: int = 500
) -> Mapping[int, Timeline]:
    """All of them are hot, where that makes a difference."""
    after_id = id_at(CLOCK.now_ms() - FEED_DEPTH_MS)
    return await author_posts.below(author_ids, before_id=before_id, after_id=after_id, limit=limit, hot=author_ids)


async def written(owners: Owners) -> tuple[int, list[int]]:
    """Ana, and four posts of hers, newest first."""
    (ana,) = await owners.people("ana")
    return ana, sorted(await owners.write(ana, ana, ana, ana), reverse=True)


@pytest.mark.parametrize("cold", [False, True])
async def test_a_part_is_complete_between_its_floor_and_the_bound(
    redis: RedisCluster, owners: Owners, author_posts: AuthorPosts, *, cold: bool
) -> None:
    ana, posts = await written(owners)
    walked: list[int] = []
    before_id = MAX_ID
    while len(walked) < len(posts):
        if cold:
            await redis.flush_all()
        part = (await below(author_posts, ana, before_id=before_id, limit=3))[ana]
        assert len(part.ids) <= 3
        assert part.floor < before_id - 1
        assert list(part.ids) == [post for post in posts if part.floor < post < before_id]
        walked += part.ids
        before_id = part.floor + 1
    assert walked == posts


async def test_below_the_floor_of_a_list_the_store_goes_on(
    redis: RedisCluster, owners: Owners, author_posts: AuthorPosts
) -> None:
    ana, posts = await written(owners)
    lists = RedisTimelines(redis, AUTHOR_POSTS)
    await lists.unlink([ana])
    await lists.begin(ana, "t", posts[1])
    await lists.commit(ana, "t", posts[:1], posts[1])
    assert (await below(author_posts, ana))[ana] == Timeline(posts[:1], posts[1])
    assert list((await below(author_posts, ana, before_id=posts[1] + 1))[ana].ids) == posts[1:]


async def test_who_wrote_nothing_has_an_empty_part(owners: Owners, author_posts: AuthorPosts) -> None:
    (ana,) = await owners.people("ana")
    assert list((await below(author_posts, ana))[ana].ids) == []
    assert await below(author_posts) == {}


@pytest.mark.parametrize("way", ["silent", "failing", "gone", "no message", "nothing in it"])
async def test_who_cannot_be_read_has_no_entry(
    redis: RedisCluster, owners: Owners, author_posts: AuthorPosts, way: str
) -> None:
    ana, _ = await written(owners)
    (bo,) = await owners.people("bo")
    (of_bo,) = await owners.write(bo)
    await redis.execute([("DEL", timeline_key(AUTHOR_POSTS, ana))])
    match way:
        case "silent":
            owners.posts.hangs()
        case "failing":
            owners.posts.fails()
        case "gone":
            await owners.posts.wire.breaks(Fault.DOWN)
        case _:
            spoiled = b"\xff\xff no message" if way == "no message" else b""
            owners.posts.answers("ListRecentPosts", lambda _: spoiled)
    found = await below(author_posts, ana, bo)
    assert {author: list(part.ids) for author, part in found.items()} == {bo: [of_bo]}


async def test_a_dead_node_of_the_cache_is_told_and_done_without(valkey_cluster: ValkeyCluster, owners: Owners) -> None:
    many = await owners.people(*(f"friend{place}" for place in range(30)))
    posts = dict(zip(many, await owners.write(*many), strict=True))
    redis = await connect(valkey_cluster.addresses, timeout_s=1.0)
    valkey_cluster.kill(1)
    with noting() as noted:
        found = await below(read_through(redis, owners), *many)
    assert {author: list(part.ids) for author, part in found.items()} == {
        author: [post] for author, post in posts.items()
    }
    assert noted == {Degraded.CACHE_UNAVAILABLE}
    await redis.close()
