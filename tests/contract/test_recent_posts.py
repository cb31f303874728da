"""The contract of authors' newest posts, read through (foundation.timeline.recent), over a real Valkey and post_svc."""

from __future__ import annotations

import pytest

from foundation.errors import DeadlineExceeded, Internal, Unavailable
from foundation.redis.client import RedisCluster, connect
from foundation.timeline.port import Timeline
from foundation.timeline.recent import ReadThroughRecentPosts
from foundation.timeline.redis import AUTHOR_POSTS, RedisTimelines, timeline_key
from tests.kit.faults import Fault
from tests.kit.owners import Owners
from tests.kit.valkey import ValkeyCluster

NOBODY = 2**62
JUNK = b"\xff\xff no message"


def recent_of(redis: RedisCluster, owners: Owners, *, timeout_s: float = 1.0) -> ReadThroughRecentPosts:
    return ReadThroughRecentPosts(RedisTimelines(redis, AUTHOR_POSTS), owners.to_posts, timeout_s=timeout_s)


async def test_a_cold_author_comes_from_the_store_and_is_warm_then(redis: RedisCluster, owners: Owners) -> None:
    ana, bo = await owners.people("ana", "bo")
    older, of_bo, newer = await owners.write(ana, bo, ana)
    await redis.flush_all()
    recent = recent_of(redis, owners)
    found = await recent.of([ana, bo])
    assert [list(found[author].ids) for author in (ana, bo)] == [[newer, older], [of_bo]]
    assert await redis.execute([("EXISTS", timeline_key(AUTHOR_POSTS, ana))]) == [1]
    await owners.posts.wire.breaks(Fault.DOWN)
    again = await recent.of([bo, ana])
    assert [list(again[author].ids) for author in (ana, bo)] == [[newer, older], [of_bo]]


async def test_a_warm_author_is_read_from_the_cache_alone(redis: RedisCluster, owners: Owners) -> None:
    lists = RedisTimelines(redis, AUTHOR_POSTS)
    await lists.begin(7, "t", 3)
    await lists.commit(7, "t", [9, 5], 3)
    await owners.posts.wire.breaks(Fault.DOWN)
    assert await recent_of(redis, owners).of([7]) == {7: Timeline([9, 5], 3)}


async def test_everybody_who_is_asked_for_has_an_entry(redis: RedisCluster, owners: Owners) -> None:
    (ana,) = await owners.people("ana")
    (post,) = await owners.write(ana)
    await redis.flush_all()
    recent = recent_of(redis, owners)
    found = await recent.of([NOBODY, ana], after_id=post - 1)
    assert {author: list(timeline.ids) for author, timeline in found.items()} == {ana: [post], NOBODY: []}
    assert await recent.of([]) == {}


@pytest.mark.parametrize("element", ["a string", "a word"])
async def test_a_list_that_nobody_can_read_is_cold(redis: RedisCluster, owners: Owners, element: str) -> None:
    (ana,) = await owners.people("ana")
    (post,) = await owners.write(ana)
    key = timeline_key(AUTHOR_POSTS, ana)
    await redis.execute([("DEL", key)])
    await redis.execute([("SET", key, 1) if element == "a string" else ("LPUSH", key, b"\xff\xfe")])
    assert list((await recent_of(redis, owners).of([ana]))[ana].ids) == [post]
    assert list((await recent_of(redis, owners).of([ana, NOBODY]))[ana].ids) == [post]


async def test_what_the_owner_fails_with(redis: RedisCluster, owners: Owners) -> None:
    (ana,) = await owners.people("ana")
    await owners.write(ana)
    await redis.flush_all()
    recent = recent_of(redis, owners, timeout_s=0.2)
    owners.posts.hangs()
    with pytest.raises(DeadlineExceeded):
        await recent.of([ana])
    await owners.posts.heals()
    owners.posts.fails()
    with pytest.raises(Unavailable):
        await recent.of([ana])
    await owners.posts.heals()
    for nonsense in (JUNK, b""):
        await redis.flush_all()
        owners.posts.answers("ListRecentPosts", lambda _, nonsense=nonsense: nonsense)  # type: ignore[misc]
        with pytest.raises(Internal):
            await recent.of([ana])


async def test_a_dead_node_of_the_cache_is_done_without(valkey_cluster: ValkeyCluster, owners: Owners) -> None:
    many = await owners.people(*(f"friend{place}" for place in range(30)))
    posts = dict(zip(many, await owners.write(*many), strict=True))
    redis = await connect(valkey_cluster.addresses, timeout_s=1.0)
    valkey_cluster.kill(1)
    found = await recent_of(redis, owners).of(many)
    assert {author: list(timeline.ids) for author, timeline in found.items()} == {
        author: [post] for author, post in posts.items()
    }
    await redis.close()
