"""The contract of card changes (foundation.card_changes), over a real Valkey and over a cluster that loses a node."""

from __future__ import annotations

import pytest

from foundation.card_changes import (
    COPIES,
    ENTRIES,
    ENTRY_BYTES,
    RedisCardChanges,
    change_keys,
    changed_since,
    copy_near,
)
from foundation.errors import Unavailable
from foundation.model.clock import SystemRandomness
from foundation.redis.client import RedisCluster, connect, slot_of_key
from tests.kit.valkey import ValkeyCluster


@pytest.fixture
def changes(redis: RedisCluster) -> RedisCardChanges:
    return RedisCardChanges(redis, SystemRandomness())


async def copies(redis: RedisCluster) -> list[bytes]:
    return await redis.execute([("GET", key) for key in change_keys()])


async def test_every_copy_tells_what_changed_since_it_was_read(redis: RedisCluster, changes: RedisCardChanges) -> None:
    await changes.begin(timeout_s=1)
    before = await copies(redis)
    assert len({*before}) == 1, "one entry, the same in all of them"
    await changes.record([7, 2**62], timeout_s=1)
    await changes.record([9], timeout_s=1)
    for known, told in zip(before, await copies(redis), strict=True):
        assert changed_since(told, known) == [9, 7, 2**62]
        assert changed_since(told, told) == []


async def test_a_copy_that_is_there_is_not_begun_again(redis: RedisCluster, changes: RedisCardChanges) -> None:
    await changes.record([7], timeout_s=1)
    before = await copies(redis)
    await changes.begin(timeout_s=1)
    assert await copies(redis) == before


async def test_who_did_not_look_for_long_cannot_know(redis: RedisCluster, changes: RedisCardChanges) -> None:
    await changes.begin(timeout_s=1)
    known = (await copies(redis))[0]
    for id_ in range(1, ENTRIES):
        await changes.record([id_], timeout_s=1)
    assert changed_since((await copies(redis))[0], known) == [*range(ENTRIES - 1, 0, -1)]
    await changes.record([ENTRIES], timeout_s=1)
    (told, *_) = await copies(redis)
    assert len(told) == ENTRIES * ENTRY_BYTES
    assert changed_since(told, known) is None


async def test_a_copy_that_was_lost_or_fell_back_tells_nothing(redis: RedisCluster, changes: RedisCardChanges) -> None:
    await changes.begin(timeout_s=1)
    (older, *_) = await copies(redis)
    await changes.record([7], timeout_s=1)
    (known, *_) = await copies(redis)
    assert changed_since(older, known) is None
    await redis.flush_all()
    await changes.begin(timeout_s=1)
    (told, *_) = await copies(redis)
    assert changed_since(told, known) is None


def test_the_copies_are_spread_evenly() -> None:
    assert [copy_near(slot_of_key(key)) for key in change_keys()] == list(range(COPIES))


async def test_a_change_that_not_every_node_took_is_not_told(valkey_cluster: ValkeyCluster) -> None:
    redis = await connect(valkey_cluster.addresses, timeout_s=0.5)
    changes = RedisCardChanges(redis, SystemRandomness())
    await changes.record([7], timeout_s=0.5)
    valkey_cluster.kill(0)
    with pytest.raises(Unavailable):
        await changes.record([8], timeout_s=0.5)
    await redis.close()
