"""The contract of timelines (foundation.timeline.port), over every server in both modes of running scripts.

Their laws are in test_timeline_model.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from foundation.errors import Unavailable
from foundation.model.ids import MAX_ID
from foundation.redis.client import RedisCluster, connect, slot_of_key
from foundation.redis.slots import SLOTS
from foundation.timeline.port import (
    ABSENT_AFTER_S,
    BUILDING_TTL_S,
    CAPACITY,
    SLACK,
    TTL_S,
    Delivered,
    Owners,
    Pushed,
    Share,
    Timeline,
)
from foundation.timeline.redis import DELIVERIES_PER_CALL, FEED, RedisTimelines, timeline_key
from tests.kit.valkey import ValkeyCluster, ask

ANA, BO = 11, 12


@pytest.fixture
def redis(every_redis: RedisCluster) -> RedisCluster:
    return every_redis


@pytest.fixture
def feeds(redis: RedisCluster) -> RedisTimelines:
    return RedisTimelines(redis, FEED)


def owners(*ids: int) -> Owners:
    return np.array(ids, dtype=np.int64)


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


async def test_ids_land_deep_inside_a_full_timeline(feeds: RedisTimelines) -> None:
    await built(feeds, ANA, list(range(2, 2 * CAPACITY + 1, 2)))
    late = [3, 501, 999, 997, 31]
    assert await feeds.push_each([(ANA, post) for post in late]) == [Pushed.DONE] * 5
    timeline = (await feeds.read([ANA]))[ANA]
    everything = sorted({*range(2, 2 * CAPACITY + 1, 2), *late}, reverse=True)
    assert list(timeline.ids) == everything[:CAPACITY]
    assert timeline.floor == everything[CAPACITY]


async def test_a_reader_of_one_timeline_renews_its_life(feeds: RedisTimelines, redis: RedisCluster) -> None:
    await built(feeds, ANA, [30])
    for owners, renewed in (([ANA, BO], False), ([ANA], True)):
        await redis.execute([("EXPIRE", timeline_key(FEED, ANA), 100)])
        await feeds.read(owners)
        (ttl,) = await redis.execute([("TTL", timeline_key(FEED, ANA))])
        assert (ttl > 100) == renewed


async def test_a_rebuild_whose_builder_died_ends_whoever_reads(feeds: RedisTimelines, redis: RedisCluster) -> None:
    assert await feeds.begin(ANA, "one", 10)
    await feeds.read([ANA])
    await feeds.push([ANA], 50)
    (ttl,) = await redis.execute([("TTL", timeline_key(FEED, ANA))])
    assert 0 < ttl <= BUILDING_TTL_S


async def test_a_delivery_does_what_pushes_do(feeds: RedisTimelines) -> None:
    await built(feeds, ANA, [30], floor=20)
    await built(feeds, BO, [])
    shares = [Share(50, owners(ANA, BO)), Share(40, owners(ANA, 13)), Share(20, owners(ANA)), Share(50, owners(ANA))]
    assert await feeds.deliver(shares) == Delivered(failed=[0, 0, 0, 0], cold=1)
    assert await feeds.read([ANA, BO]) == {ANA: Timeline([50, 40, 30], 20), BO: Timeline([50], 0)}


async def test_many_deliveries_go_out_in_turns(feeds: RedisTimelines) -> None:
    many = list(range(1, DELIVERIES_PER_CALL + 2))
    for owner in (many[0], many[-1]):
        await built(feeds, owner, [])
    assert await feeds.deliver([Share(7, owners(*many))]) == Delivered(failed=[0], cold=len(many) - 2)
    assert set(await feeds.read([many[0], many[-1]])) == {many[0], many[-1]}


async def test_present_only_forgets_absentees_and_nobody_else(feeds: RedisTimelines, redis: RedisCluster) -> None:
    cy, dan = 13, 14
    for owner in (ANA, BO):
        await built(feeds, owner, [30])
    assert await feeds.begin(cy, "t", 0)
    await redis.execute([("EXPIRE", timeline_key(FEED, ANA), TTL_S - ABSENT_AFTER_S - 1)])
    told = await feeds.deliver([Share(50, owners(ANA, BO, cy, dan))], present_only=True)
    assert told == Delivered(failed=[0], cold=1, unlinked=1)
    assert await feeds.read([ANA, BO]) == {BO: Timeline([50, 30], 0)}, "skipping is unlinking"
    assert await feeds.commit(cy, "t", [], 0), "somebody waits for a rebuild"
    assert (await feeds.read([cy]))[cy].ids == [50]


async def test_a_delivery_spares_what_is_no_timeline(feeds: RedisTimelines, redis: RedisCluster) -> None:
    await built(feeds, ANA, [])
    await redis.execute([("SET", timeline_key(FEED, BO), "x")])
    assert await feeds.deliver([Share(5, owners(BO)), Share(6, owners(ANA, BO))]) == Delivered(failed=[1, 1])
    assert (await feeds.read([ANA]))[ANA].ids == [6]


async def test_a_part_below_a_bound_is_read_without_what_lies_above(feeds: RedisTimelines) -> None:
    big = 10**18
    await built(feeds, ANA, [big + 90, big + 70, big + 50, big + 30], floor=big + 20)

    async def below(before: int, limit: int) -> Timeline | Unavailable | None:
        return (await feeds.read_below([ANA], before_id=before, limit=limit))[ANA]

    assert await below(MAX_ID, 2) == Timeline([big + 90, big + 70], big + 50)
    assert await below(big + 90, 2) == Timeline([big + 70, big + 50], big + 30)
    assert await below(big + 71, 9) == Timeline([big + 70, big + 50, big + 30], big + 20)
    assert await below(big + 30, 9) == Timeline([], big + 20)
    assert await below(big + 20, 9) == Timeline([], big + 20), "a floor at the bound: nothing is known below it"
    assert await below(999, 9) == Timeline([], big + 20), "shorter text is smaller"


async def test_a_cold_timeline_has_no_part(feeds: RedisTimelines) -> None:
    await built(feeds, ANA, [50], floor=20)
    await feeds.begin(BO, "one", 10)
    await feeds.push([BO], 60)
    parts = await feeds.read_below([ANA, BO, 13], before_id=MAX_ID, limit=5)
    assert parts == {ANA: Timeline([50], 20), BO: None, 13: None}


@pytest.mark.parametrize("count", [1, 2, 17, CAPACITY])
async def test_parts_put_together_are_the_timeline(feeds: RedisTimelines, count: int) -> None:
    ids = list(range(3 * count, 0, -3))
    await built(feeds, ANA, ids)
    for limit in (1, 7, CAPACITY):
        found: list[int] = []
        before_id = MAX_ID
        while before_id > 1:
            part = (await feeds.read_below([ANA], before_id=before_id, limit=limit))[ANA]
            assert isinstance(part, Timeline)
            found += part.ids
            before_id = part.floor + 1
        assert found == ids


async def test_nobody_is_asked_for_nothing(feeds: RedisTimelines) -> None:
    assert await feeds.read([]) == {}
    assert await feeds.push([], 5) == {}
    assert await feeds.push_each([]) == []
    assert await feeds.deliver([]) == Delivered(failed=[])
    assert await feeds.deliver([Share(5, owners())]) == Delivered(failed=[0])
    await feeds.unlink([])
    assert await feeds.read_below([], before_id=5, limit=5) == {}


async def test_a_full_timeline_is_small(feeds: RedisTimelines, redis: RedisCluster) -> None:
    base = 10**18
    await built(feeds, ANA, list(range(base, base + CAPACITY)))
    (size,) = await redis.execute([("MEMORY", "USAGE", timeline_key(FEED, ANA))])
    assert size <= 5_300


async def test_a_dead_node_fails_its_share_of_a_delivery_alone(valkey_cluster: ValkeyCluster) -> None:
    redis = await connect(valkey_cluster.addresses, timeout_s=0.5)
    feeds = RedisTimelines(redis, FEED)
    many = list(range(1, 61))
    for owner in many:
        await built(feeds, owner, [])
    valkey_cluster.kill(0)
    lost = {owner for owner in many if slot_of_key(timeline_key(FEED, owner)) * 3 // SLOTS == 0}
    told = await feeds.deliver([Share(7, owners(*many)), Share(8, owners(*(set(many) - lost)))])
    assert told == Delivered(failed=[len(lost), 0])
    left = await feeds.read(sorted(set(many) - lost))
    assert all(left[owner].ids == [8, 7] for owner in set(many) - lost)
    await redis.close()


async def test_deliveries_follow_keys_that_moved(valkey_cluster: ValkeyCluster) -> None:
    redis = await connect(valkey_cluster.addresses, timeout_s=0.5)
    feeds = RedisTimelines(redis, FEED)
    await built(feeds, ANA, [])
    slot = slot_of_key(timeline_key(FEED, ANA))
    source = slot * 3 // SLOTS
    ports = valkey_cluster.ports
    target = ports[(source + 1) % 3]
    ask(ports[source], "DEL", timeline_key(FEED, ANA))
    target_id = ask(target, "CLUSTER", "MYID").decode()
    for port in (target, ports[source], *ports):
        assert ask(port, "CLUSTER", "SETSLOT", slot, "NODE", target_id) == b"OK"
    ask(target, "RPUSH", timeline_key(FEED, ANA), 0)
    assert await feeds.deliver([Share(7, owners(ANA, BO))]) == Delivered(failed=[0], cold=1)
    assert ask(target, "LRANGE", timeline_key(FEED, ANA), 0, -1) == [b"7", b"0"]
    await redis.close()
