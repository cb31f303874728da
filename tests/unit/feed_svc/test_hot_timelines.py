"""One hot author is one read per second and process, however many ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from feed_svc.adapters.hot_timelines import REFRESH_AFTER_S, TTL_S, HotAuthorPosts, HotTimelines
from foundation.model.ids import MAX_ID
from foundation.timeline.port import Timeline
from tests.kit.feeds import StoppedClock

ANA, BO, CAI = 1, 2, 3


class Source:
    """Counts reads; each brings another answer, once it is let go."""

    def __init__(self) -> None:
        self.reads: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.silent: set[int] = set()

    async def load(self, author_ids: Sequence[int]) -> Mapping[int, Timeline]:
        self.reads.append(list(author_ids))
        number = len(self.reads)
        await self.gate.wait()
        return {author: Timeline((1_000 + number,), 10) for author in author_ids if author not in self.silent}


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
async def hot(source: Source, clock: StoppedClock) -> AsyncIterator[HotTimelines]:
    cache = HotTimelines(source.load, clock, capacity=2)
    yield cache
    await cache.close()


async def turns() -> None:
    """Let what runs in the background get on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_many_who_ask_at_once_make_one_read(hot: HotTimelines, source: Source) -> None:
    source.gate.clear()
    asking = [asyncio.create_task(hot.get([ANA])) for _ in range(50)]
    await turns()
    source.gate.set()
    assert [await asked for asked in asking] == [{ANA: Timeline((1_001,), 10)}] * 50
    assert source.reads == [[ANA]]


async def test_who_gives_up_does_not_take_the_read_from_the_others(hot: HotTimelines, source: Source) -> None:
    source.gate.clear()
    first, second = (asyncio.create_task(hot.get([ANA])) for _ in range(2))
    await turns()
    first.cancel()
    source.gate.set()
    assert ANA in await second
    assert len(source.reads) == 1


async def test_an_ageing_answer_is_served_while_the_next_is_read(
    hot: HotTimelines, source: Source, clock: StoppedClock
) -> None:
    await hot.get([ANA])
    clock.seconds += REFRESH_AFTER_S
    source.gate.clear()
    for _ in range(10):
        assert await hot.get([ANA]) == {ANA: Timeline((1_001,), 10)}
    await turns()
    assert len(source.reads) == 2
    source.gate.set()
    await turns()
    assert await hot.get([ANA]) == {ANA: Timeline((1_002,), 10)}
    assert len(source.reads) == 2


async def test_nothing_older_than_its_time_is_served(hot: HotTimelines, source: Source, clock: StoppedClock) -> None:
    await hot.get([ANA])
    source.silent.add(ANA)
    clock.seconds += TTL_S
    assert await hot.get([ANA]) == {}, "who cannot be read is missing, not old"
    source.silent.clear()
    assert await hot.get([ANA]) == {ANA: Timeline((1_003,), 10)}


async def test_the_least_recently_used_goes_first(hot: HotTimelines, source: Source) -> None:
    await hot.get([ANA])
    await hot.get([BO])
    await hot.get([ANA])
    await hot.get([CAI])
    assert source.reads == [[ANA], [BO], [CAI]]
    await hot.get([ANA])
    assert len(source.reads) == 3
    await hot.get([BO])
    assert source.reads[3:] == [[BO]]


class Cold:
    """Authors who are not kept."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    async def below(
        self,
        author_ids: Sequence[int],
        *,
        before_id: int,
        after_id: int,
        limit: int,
        hot: Sequence[int] = (),
    ) -> Mapping[int, Timeline]:
        self.asked.append(list(author_ids))
        return {author: Timeline((7,), after_id) for author in author_ids}


async def test_only_hot_authors_come_from_the_cache_and_only_above_its_floor(hot: HotTimelines, source: Source) -> None:
    cold = Cold()
    posts = HotAuthorPosts(cold, hot, frozenset)
    parts = await posts.below([ANA, BO], before_id=MAX_ID, after_id=5, limit=9, hot={ANA})
    assert parts == {ANA: Timeline((1_001,), 10), BO: Timeline((7,), 5)}
    await posts.below([ANA], before_id=11, after_id=5, limit=9, hot={ANA})
    assert cold.asked == [[BO], [ANA]], "below its floor the cache knows nothing"
    assert source.reads == [[ANA]]
