"""A watch tells the number at once, at changes and as a heartbeat, and ends by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from feed_svc.flows.watch_feed import WatchFeed
from feed_svc.flows.watch_heads import HeadWatch
from feed_svc.model import Degraded, HeadMark, HeadMarks, News
from foundation.errors import Exhausted, NotFound, Unavailable
from foundation.model.clock import SystemClock, SystemRandomness
from tests.kit.eventually import eventually

ANA, STAR = 1, 9
MANY_S = 1e6


class World:
    """Lists whose marks the test moves, and numbers that it sets."""

    def __init__(self) -> None:
        self.mark = HeadMark(10, 1)
        self.star = HeadMark(20, 1)
        self.silent = False
        self.polls = 0
        self.counts = 0
        self.news = News(0, 10, frozenset(), True, frozenset({STAR}))
        self.failure: Exception | None = None

    async def marks(self, feeds: list[int], authors: list[int]) -> HeadMarks:
        self.polls += 1
        if self.silent:
            return HeadMarks({}, {})
        return HeadMarks(dict.fromkeys(feeds, self.mark), {author: self.star for author in authors if author == STAR})

    async def count(self, _: int, __: int) -> News:
        self.counts += 1
        if self.failure is not None:
            raise self.failure
        return self.news

    def tell(self, number: int, **changes: object) -> None:
        self.news = News(number, number, frozenset(), True, frozenset({STAR}))

    @asynccontextmanager
    async def watch(self, *, capacity: int = 2, **times: float) -> AsyncIterator[tuple[WatchFeed, HeadWatch]]:
        heads = HeadWatch(self, SystemRandomness(), capacity=capacity, every_s=0.01)
        times = {"life_s": MANY_S, "heartbeat_s": MANY_S, **times}
        async with heads.running():
            yield WatchFeed(count=self.count, heads=heads, clock=SystemClock(), **times), heads


@pytest.fixture
def world() -> World:
    return World()


async def polled(world: World, times: int = 3) -> None:
    seen = world.polls

    async def enough() -> bool:
        return world.polls >= seen + times

    await eventually(enough)


async def test_it_tells_at_once_and_at_every_change(world: World) -> None:
    async with world.watch() as (watch, _), aclosing(watch(ANA, since_id=0)) as told:
        assert (await anext(told)).new_posts == 0
        world.tell(1)
        world.mark = HeadMark(11, 2)
        assert (await anext(told)).new_posts == 1
        world.tell(2)
        world.star = HeadMark(30, 2)
        assert (await anext(told)).new_posts == 2, "a pulled author's own list moved"
        world.tell(3)
        world.mark = HeadMark(11, 3)
        assert (await anext(told)).new_posts == 3, "a late post below the head"


async def test_what_changes_no_number_is_not_told_and_not_counted_again(world: World) -> None:
    async with world.watch() as (watch, _), aclosing(watch(ANA, since_id=0)) as told:
        await anext(told)
        waiting = asyncio.ensure_future(anext(told))
        await polled(world)
        world.mark = HeadMark(11, 2)  # hidden from ana: the count stays
        await polled(world)
        counts = world.counts
        await polled(world, 5)
        assert world.counts == counts, "lists that stand still cost no count"
        assert not waiting.done()
        world.tell(1)
        world.mark = HeadMark(12, 3)
        assert (await waiting).new_posts == 1


async def test_silence_is_broken_by_a_heartbeat(world: World) -> None:
    async with world.watch(heartbeat_s=0.02) as (watch, _), aclosing(watch(ANA, since_id=0)) as told:
        assert [await anext(told) for _ in range(3)] == [world.news] * 3


async def test_it_ends_after_its_life(world: World) -> None:
    async with world.watch(life_s=0.05, heartbeat_s=0.02) as (watch, _):
        assert len([news async for news in watch(ANA, since_id=0)]) in (2, 3)


async def test_it_ends_when_the_service_stops_and_none_begins(world: World) -> None:
    async with world.watch() as (watch, heads):
        told = watch(ANA, since_id=0)
        await anext(told)
        waiting = asyncio.ensure_future(anext(told, None))
        await polled(world)
    assert await waiting is None
    with pytest.raises(Unavailable), heads.watching(ANA):
        pass


async def test_more_than_it_takes_are_refused_and_leaving_makes_room(world: World) -> None:
    async with world.watch(capacity=1) as (watch, _):
        first = watch(ANA, since_id=0)
        await anext(first)
        with pytest.raises(Exhausted) as refused:
            await anext(watch(ANA, since_id=0))
        assert refused.value.reason == "TOO_MANY_WATCHERS"
        await first.aclose()
        async with aclosing(watch(ANA, since_id=0)) as second:
            await anext(second)


async def test_a_count_that_fails_is_tried_again(world: World) -> None:
    async with world.watch() as (watch, _), aclosing(watch(ANA, since_id=0)) as told:
        await anext(told)
        world.failure = Unavailable("CACHE_UNAVAILABLE")
        world.mark = HeadMark(11, 2)
        waiting = asyncio.ensure_future(anext(told))
        await polled(world, 5)
        assert not waiting.done()
        world.tell(1)
        world.failure = None
        assert (await waiting).new_posts == 1


async def test_an_account_that_is_gone_ends_it(world: World) -> None:
    world.failure = NotFound("USER_NOT_FOUND")
    async with world.watch() as (watch, heads):
        with pytest.raises(NotFound):
            await anext(watch(ANA, since_id=0))
        assert not heads.watchers


async def test_a_silent_node_wakes_nobody(world: World) -> None:
    async with world.watch() as (watch, _), aclosing(watch(ANA, since_id=0)) as told:
        await anext(told)
        waiting = asyncio.ensure_future(anext(told))
        await polled(world)
        counts = world.counts
        world.silent = True
        await polled(world)
        world.silent = False
        await polled(world)
        assert world.counts == counts
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_a_number_that_may_be_too_small_says_so(world: World) -> None:
    async with world.watch(heartbeat_s=0.05) as (watch, _), aclosing(watch(ANA, since_id=0)) as told:
        world.news = News(0, 0, frozenset({Degraded.FEED_PARTIAL}), False, frozenset())
        assert (await anext(told)).reasons
        world.tell(0)
        assert not (await anext(told)).reasons, "counted again by the next heartbeat"


async def test_nobody_watches_nothing_is_polled(world: World) -> None:
    async with world.watch() as (watch, _):
        async with aclosing(watch(ANA, since_id=0)) as told:
            await anext(told)
            await polled(world)
        polls = world.polls
        async with asyncio.timeout(5):
            for _ in range(10):
                await asyncio.to_thread(lambda: None)
        assert world.polls <= polls + 1
