"""The contract of `recs:{u}`: rank_svc.ports.Recommendations writes, feed_svc.ports.Homes reads, on real Valkeys."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from feed_svc.adapters.homes_redis import RedisHomes
from feed_svc.adapters.kept_cards import KeptCards
from feed_svc.degradation import noting
from feed_svc.model import Degraded, Recommended
from foundation.errors import Unavailable
from foundation.model.clock import SystemClock
from foundation.recommendations import MOST, TTL_S, recommendations_key
from foundation.redis.client import RedisCluster, connect, slot_of_key
from foundation.viewers import encode_viewer, viewer_key
from foundation.visibility import UserState
from rank_svc.adapters.recommendations_redis import RedisRecommendations
from tests.kit.valkey import ValkeyCluster

ANA, BO = 11, 12
BIG = 2**62
NOW_MS = 1_700_000_000_000


@pytest.fixture(params=["one node", "three nodes"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[RedisCluster]:
    if request.param == "one node":
        addresses = [("127.0.0.1", request.getfixturevalue("valkey"))]
    else:
        addresses = request.getfixturevalue("valkey_cluster").addresses
    client = await connect(addresses, timeout_s=1.0)
    await client.flush_all()
    yield client
    await client.close()


def homes_of(redis: RedisCluster, *, recommendations: bool = True) -> RedisHomes:
    return RedisHomes(redis, KeptCards(SystemClock(), capacity=0), read_within_s=1.0, recommendations=recommendations)


async def recommended(redis: RedisCluster, viewer: int = ANA) -> Recommended | None:
    """As a head gets them, where nothing is wrong."""
    with noting() as noted:
        home = await homes_of(redis).load(viewer, for_head=True)
    assert noted == set()
    return home.recommended


async def test_what_was_made_is_read_with_the_home_best_first(cluster: RedisCluster) -> None:
    made = RedisRecommendations(cluster)
    assert await made.made_ms(ANA) == 0
    assert await recommended(cluster) is None
    await made.put(ANA, [7, BIG, 9], NOW_MS)
    assert await made.made_ms(ANA) == NOW_MS
    assert await recommended(cluster) == Recommended([7, BIG, 9], NOW_MS)
    assert await recommended(cluster, BO) is None
    await made.put(ANA, (), NOW_MS + 1)
    assert await recommended(cluster) == Recommended([], NOW_MS + 1), "none were found, and that is known"


async def test_only_a_head_reads_them_and_only_where_they_are_on(cluster: RedisCluster) -> None:
    await RedisRecommendations(cluster).put(ANA, [7], NOW_MS)
    assert (await homes_of(cluster).load(ANA)).recommended is None
    assert (await homes_of(cluster, recommendations=False).load(ANA, for_head=True)).recommended is None


async def test_they_are_bounded_in_number_and_time(cluster: RedisCluster) -> None:
    await RedisRecommendations(cluster).put(ANA, range(1, MOST + 9), NOW_MS)
    found = await recommended(cluster)
    assert found is not None
    assert found.ids == list(range(1, MOST + 1))
    (left_s,) = await cluster.execute([("TTL", recommendations_key(ANA))])
    assert TTL_S - 5 <= left_s <= TTL_S


@pytest.mark.parametrize("spoiled", ["a layout of later days", "nothing in it", "half an id", "another type"])
async def test_what_nobody_can_read_is_told_and_costs_nothing_else(cluster: RedisCluster, spoiled: str) -> None:
    made = RedisRecommendations(cluster)
    key = recommendations_key(ANA)
    record = encode_viewer(version=1, state=UserState.ACTIVE, follows=[BO], blocks=(), mutes=())
    await cluster.execute([("SET", viewer_key(ANA), record)])
    match spoiled:
        case "another type":
            await cluster.execute([("LPUSH", key, 1)])
        case "half an id":
            await made.put(ANA, [7], NOW_MS)
            await cluster.execute([("APPEND", key, b"1234")])
        case _:
            await cluster.execute([("SET", key, b"\xff\xfe of later days" if spoiled[0] == "a" else b"")])
    with noting() as noted:
        home = await homes_of(cluster).load(ANA, for_head=True)
    assert home.viewer is not None
    assert home.viewer.follows == {BO}
    assert (home.recommended, noted) == (None, {Degraded.RECOMMENDATIONS_UNAVAILABLE})
    assert await made.made_ms(ANA) == 0, "they are made again"
    await made.put(ANA, [7], NOW_MS)
    assert await recommended(cluster) == Recommended([7], NOW_MS)


async def test_they_lie_on_the_node_of_the_home_and_go_with_it(valkey_cluster: ValkeyCluster) -> None:
    redis = await connect(valkey_cluster.addresses, timeout_s=1.0)
    made = RedisRecommendations(redis)
    viewers = range(1, 31)
    assert all(slot_of_key(recommendations_key(one)) == slot_of_key(viewer_key(one)) for one in viewers)
    for viewer in viewers:
        await made.put(viewer, [viewer], NOW_MS)
    valkey_cluster.kill(1)
    lost = 0
    for viewer in viewers:
        try:
            assert await recommended(redis, viewer) == Recommended([viewer], NOW_MS)
        except Unavailable:
            lost += 1
            with pytest.raises(Unavailable):
                await made.put(viewer, [viewer], NOW_MS)
            with pytest.raises(Unavailable):
                await made.made_ms(viewer)
    assert 0 < lost < len(viewers)
    await redis.close()
