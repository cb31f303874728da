"""The contract of timelines (foundation.timeline.port), over a real Valkey."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundation.redis.client import RedisCluster, connect
from foundation.timeline.port import CAPACITY, SLACK, Pushed, Timeline
from foundation.timeline.redis import FEED, RedisTimelines

ANA, BO = 11, 12


@pytest.fixture
def feeds(redis: RedisCluster) -> RedisTimelines:
    return RedisTimelines(redis, FEED)


async def built(feeds: RedisTimelines, owner: int, ids: list[int], floor: int = 0) -> None:
    assert await feeds.begin(owner, "t", floor)
    assert await feeds.commit(owner, "t", ids, floor)


async def test_a_push_into_nothing_is_cold_and_makes_nothing(feeds: RedisTimelines) -> None:
    assert await feeds.push([ANA], 5) == {ANA: Pushed.COLD}
    assert await feeds.read([ANA]) == {}


async def test_pushes_come_out_newest_first_whatever_their_order(feeds: RedisTimelines) -> None:
    await built(feeds, ANA, [])
    for post in (50, 30, 40, 60, 35):
        assert await feeds.push([ANA], post) == {ANA: Pushed.DONE}
    assert await feeds.read([ANA]) == {ANA: Timeline([60, 50, 40, 35, 30], 0)}


async def test_a_replay_doubles_nothing(feeds: RedisTimelines) -> None:
    await built(feeds, ANA, [30])
    for post in (50, 40, 50, 40, 30):
        await feeds.push([ANA], post)
    assert (await feeds.read([ANA]))[ANA].ids == [50, 40, 30]


async def test_an_id_at_or_below_the_floor_is_left_out(feeds: RedisTimelines) -> None:
    await built(feeds, ANA, [30], floor=20)
    assert await feeds.push_each([(ANA, 20), (ANA, 10)]) == [Pushed.DONE, Pushed.DONE]
    assert (await feeds.read([ANA]))[ANA] == Timeline([30], 20)


async def test_neighbouring_ids_beyond_doubles_stay_apart(feeds: RedisTimelines) -> None:
    big = 2**62
    await built(feeds, ANA, [])
    for post in (big, big + 1, big + 2, big + 1):
        await feeds.push([ANA], post)
    assert (await feeds.read([ANA]))[ANA].ids == [big + 2, big + 1, big]


async def test_a_trim_raises_the_floor_to_the_greatest_id_dropped(feeds: RedisTimelines) -> None:
    await built(feeds, ANA, [])
    count = CAPACITY + SLACK + 40
    await feeds.push_each([(ANA, post) for post in range(1, count + 1)])
    timeline = (await feeds.read([ANA]))[ANA]
    assert list(timeline.ids) == list(range(count, count - CAPACITY, -1))
    assert timeline.floor == count - CAPACITY


async def test_what_is_pushed_during_a_rebuild_is_merged(feeds: RedisTimelines) -> None:
    assert await feeds.begin(ANA, "one", 10)
    assert await feeds.read([ANA]) == {}
    assert await feeds.push([ANA], 50) == {ANA: Pushed.DONE}
    assert await feeds.push([ANA], 25) == {ANA: Pushed.DONE}
    assert await feeds.commit(ANA, "one", [40, 25, 30, 5], 10)
    assert (await feeds.read([ANA]))[ANA] == Timeline([50, 40, 30, 25], 10)


async def test_only_the_rebuild_that_began_may_commit(feeds: RedisTimelines) -> None:
    assert await feeds.begin(ANA, "one", 10)
    assert not await feeds.begin(ANA, "two", 10)
    assert not await feeds.commit(ANA, "two", [40], 10)
    await feeds.unlink([ANA])
    assert not await feeds.commit(ANA, "one", [40], 10)
    assert await feeds.read([ANA]) == {}


async def test_a_commit_keeps_the_newest_and_its_floor_says_so(feeds: RedisTimelines) -> None:
    ids = list(range(1, CAPACITY + 101))
    await built(feeds, ANA, ids, floor=0)
    assert (await feeds.read([ANA]))[ANA] == Timeline(list(range(CAPACITY + 100, 100, -1)), 100)


async def test_owners_do_not_touch_each_other(feeds: RedisTimelines) -> None:
    await built(feeds, ANA, [1])
    assert await feeds.push([ANA, BO], 2) == {ANA: Pushed.DONE, BO: Pushed.COLD}
    assert set(await feeds.read([ANA, BO])) == {ANA}


@dataclass
class Model:
    """A timeline as a set and a floor."""

    ids: set[int] | None = None
    floor: int = 0
    building: bool = False
    everything: set[int] = field(default_factory=set)

    def push(self, post: int) -> None:
        self.everything.add(post)
        if self.ids is not None and post > self.floor:
            self.ids.add(post)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 900)),
        st.tuples(st.just("burst"), st.integers(1, 700)),
        st.tuples(st.just("begin"), st.integers(0, 100)),
        st.tuples(st.just("commit"), st.integers(0, 0)),
        st.tuples(st.just("unlink"), st.integers(0, 0)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_a_timeline_holds_every_id_above_its_floor_and_nothing_else(valkey: int, steps: list[tuple[str, int]]) -> None:
    asyncio.run(_walk(valkey, steps))


async def _walk(port: int, steps: list[tuple[str, int]]) -> None:
    redis = await connect([("127.0.0.1", port)], timeout_s=2.0)
    try:
        await redis.flush_all()
        feeds = RedisTimelines(redis, FEED)
        model = Model()
        for step, value in steps:
            if step == "push":
                await feeds.push([ANA], value)
                model.push(value)
            elif step == "burst":
                burst = list(range(value, value + 120))
                await feeds.push_each([(ANA, post) for post in burst])
                for post in burst:
                    model.push(post)
            elif step == "begin":
                began = await feeds.begin(ANA, "t", value)
                assert began == (model.ids is None)
                if began:
                    model.ids, model.floor, model.building = set(), value, True
            elif step == "commit":
                done = await feeds.commit(ANA, "t", sorted(model.everything), model.floor)
                assert done == model.building
                if done and model.ids is not None:
                    model.ids |= {post for post in model.everything if post > model.floor}
                    model.building = False
            else:
                await feeds.unlink([ANA])
                model.ids, model.building = None, False
            timeline = (await feeds.read([ANA])).get(ANA)
            assert (timeline is None) == (model.ids is None or model.building)
            if timeline is not None and model.ids is not None:
                assert timeline.floor >= model.floor
                assert list(timeline.ids) == sorted((p for p in model.ids if p > timeline.floor), reverse=True)
                assert len(timeline.ids) >= min(CAPACITY, len(model.ids))
    finally:
        await redis.close()
