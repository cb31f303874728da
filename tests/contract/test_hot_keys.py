"""A key that everybody reads: seen by one process, known to all, kept in memory for a second, cool after an hour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pytest

from feed_svc.adapters.hot_timelines import TTL_S, HotAuthorPosts, HotTimelines, whole_timelines
from foundation.model.clock import Millis
from foundation.model.ids import MAX_ID
from foundation.redis import hot_keys as subject
from foundation.redis.client import RedisCluster, connect
from foundation.redis.hot_keys import HOT_FOR_S, HOT_KEYS, WINDOW_S, HotKeys
from foundation.timeline.port import Timeline
from foundation.timeline.redis import AUTHOR_POSTS, FEED, RedisTimelines, timeline_key
from tests.kit.eventually import eventually
from tests.kit.valkey import ValkeyCluster

STAR = 7
START_MS = 1_800_000_000_000


@dataclass
class StoppedClock:
    seconds: float = 0.0

    def now_ms(self) -> Millis:
        return Millis(START_MS + round(self.seconds * 1_000))

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Stored:
    """feed_svc.ports.AuthorPosts of authors whose timelines are all there."""

    timelines: RedisTimelines

    async def below(
        self, author_ids: Sequence[int], *, before_id: int, after_id: int, limit: int, hot: Collection[int] = ()
    ) -> Mapping[int, Timeline]:
        parts = await self.timelines.read_below(author_ids, before_id=before_id, limit=limit)
        return {author_id: part for author_id, part in parts.items() if isinstance(part, Timeline)}


class Reader:
    """One process that reads authors' timelines."""

    def __init__(self, redis: RedisCluster, clock: StoppedClock) -> None:
        self.redis = redis
        self.clock = clock
        self.hot = HotKeys(redis, clock)
        self.stored = RedisTimelines(redis, AUTHOR_POSTS)
        stored = Stored(self.stored)
        self.kept = HotTimelines(partial(whole_timelines, stored, clock), clock)
        self.authors = HotAuthorPosts(stored, self.kept, partial(self.hot.owners, AUTHOR_POSTS))

    async def read(self, owner: int, *, times: int = 1) -> list[Timeline]:
        bounds = {"before_id": MAX_ID, "after_id": 0, "limit": 5}
        return [(await self.authors.below([owner], **bounds))[owner] for _ in range(times)]

    async def build(self, owner: int, ids: list[int]) -> None:
        assert await self.stored.begin(owner, "t", 0)
        assert await self.stored.commit(owner, "t", ids, 0)

    async def heat(self) -> None:
        """A window in which the star is read 1,100 times a second."""
        for _ in range(110):
            await asyncio.gather(*(self.read(STAR) for _ in range(100)))
        self.clock.seconds += WINDOW_S
        await self.hot.turn()

    async def calls(self) -> int:
        """Scripts that the node ran so far."""
        (stats,) = await self.redis.execute([("INFO", "commandstats")])
        (line,) = [line for line in stats.decode().splitlines() if line.startswith("cmdstat_evalsha:")]
        return int(line.split("=")[1].split(",")[0])


@pytest.fixture
async def readers(redis: RedisCluster, valkey: int) -> AsyncIterator[tuple[Reader, Reader]]:
    clock = StoppedClock()
    second = await connect([("127.0.0.1", valkey)], timeout_s=1.0)
    both = Reader(redis, clock), Reader(second, clock)
    yield both
    for reader in both:
        await reader.kept.close()
    await second.close()


async def test_a_hot_key_is_read_once_a_second_by_every_process_and_cools(readers: tuple[Reader, Reader]) -> None:
    one, other = readers
    clock = one.clock
    await one.build(STAR, [3, 2, 1])
    await one.read(STAR)  # the node knows the script from here on
    before = await one.calls()
    assert not one.hot.is_hot(timeline_key(AUTHOR_POSTS, STAR))
    await one.read(STAR, times=200)
    assert await one.calls() - before == 200

    await one.heat()
    await other.hot.turn()  # it read nothing itself
    for reader in readers:
        assert reader.hot.is_hot(timeline_key(AUTHOR_POSTS, STAR))
        before = await reader.calls()
        for _ in range(3):
            assert await reader.read(STAR, times=200) == [Timeline([3, 2, 1], 0)] * 200
            clock.seconds += TTL_S
        assert await reader.calls() - before == 3

    # Nobody asks the node often any more, so nobody tells of it again: an hour later it is a key as any.
    clock.seconds += HOT_FOR_S
    for reader in readers:
        await reader.hot.turn()
        assert not reader.hot.is_hot(timeline_key(AUTHOR_POSTS, STAR))
        before = await reader.calls()
        await reader.read(STAR, times=50)
        assert await reader.calls() - before == 50
    assert await one.redis.execute([("EXISTS", HOT_KEYS)]) == [0]


async def test_the_set_lives_for_an_hour_and_is_bounded(
    readers: tuple[Reader, Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = readers
    monkeypatch.setattr(subject, "MAX_HOT_KEYS", 2)
    now_ms = one.clock.now_ms()
    await one.redis.execute([("ZADD", HOT_KEYS, now_ms + n, f"k{n}") for n in (-5, 10, 20, 30)])
    await one.hot.turn()
    assert [one.hot.is_hot(f"k{n}") for n in (-5, 10, 20, 30)] == [False, False, True, True]
    (ttl,) = await one.redis.execute([("TTL", HOT_KEYS)])
    assert HOT_FOR_S - 5 <= ttl <= HOT_FOR_S


async def test_hot_owners_are_those_of_a_family(readers: tuple[Reader, Reader]) -> None:
    one, _ = readers
    until_ms = one.clock.now_ms() + 60_000
    keys = ("author_posts:{7}", "author_posts:{12}", "feed:{8}", "author_posts:{x}", "card:9", "xauthor_posts:{3}")
    await one.redis.execute([("ZADD", HOT_KEYS, until_ms, key) for key in keys])
    assert one.hot.owners(AUTHOR_POSTS) == set()
    await one.hot.turn()
    assert one.hot.owners(AUTHOR_POSTS) == {7, 12}
    assert one.hot.owners(FEED) == {8}


async def test_few_reads_make_nothing_hot(readers: tuple[Reader, Reader]) -> None:
    one, _ = readers
    await one.build(STAR, [1])
    await asyncio.gather(*(one.read(STAR) for _ in range(3_000)))
    one.clock.seconds += WINDOW_S
    await one.hot.turn()
    assert not one.hot.is_hot(timeline_key(AUTHOR_POSTS, STAR))


async def test_a_node_that_is_away_leaves_hot_what_was_hot(valkey_cluster: ValkeyCluster) -> None:
    redis = await connect(valkey_cluster.addresses, timeout_s=0.5)
    try:
        one = Reader(redis, StoppedClock())
        await redis.execute([("ZADD", HOT_KEYS, one.clock.now_ms() + 60_000, timeline_key(AUTHOR_POSTS, STAR))])
        await one.hot.turn()
        for place in range(3):
            valkey_cluster.kill(place)
        await one.hot.turn()
        assert one.hot.is_hot(timeline_key(AUTHOR_POSTS, STAR))
    finally:
        await redis.close()


async def test_windows_turn_by_themselves(readers: tuple[Reader, Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = readers
    monkeypatch.setattr(subject, "WINDOW_S", 0.01)
    await one.redis.execute([("ZADD", HOT_KEYS, one.clock.now_ms() + 60_000, "k")])

    async def known() -> bool:
        return other.hot.is_hot("k")

    async with other.hot.running():
        await eventually(known)
