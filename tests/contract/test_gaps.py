"""The contract of gaps (foundation.timeline.port.Gaps), over a real Valkey and over a cluster that loses a node."""

from __future__ import annotations

import pytest

from foundation.errors import Unavailable
from foundation.model.clock import SystemClock
from foundation.model.ids import EPOCH_MS, id_at
from foundation.redis.client import RedisCluster, connect, slot_of_key
from foundation.redis.slots import SLOTS
from foundation.timeline.gaps import COPIES, STEP_MS, RedisGaps, gap_keys
from foundation.timeline.port import Gap
from tests.kit.valkey import ValkeyCluster

CLOCK = SystemClock()
NOW_MS = (CLOCK.now_ms() - EPOCH_MS) // STEP_MS * STEP_MS + EPOCH_MS


def minute(ago: int) -> tuple[int, int]:
    """The first and the last id of the minute so long *ago*."""
    first_ms = NOW_MS - ago * STEP_MS
    return id_at(first_ms), id_at(first_ms + STEP_MS) - 1


@pytest.fixture
def gaps(redis: RedisCluster) -> RedisGaps:
    return RedisGaps(redis, CLOCK)


async def test_without_a_record_there_is_none(gaps: RedisGaps) -> None:
    await gaps.record([])
    assert await gaps.read() == []


async def test_every_post_that_was_recorded_is_in_a_gap(gaps: RedisGaps) -> None:
    first, last = minute(5)
    await gaps.record([first, last])
    assert await gaps.read() == [Gap(first, last)]


async def test_minutes_that_follow_each_other_are_one_gap_whatever_their_order(gaps: RedisGaps) -> None:
    for ago in (3, 9, 5, 4, 3):
        await gaps.record([minute(ago)[0] + 7])
    assert await gaps.read() == [Gap(minute(5)[0], minute(3)[1]), Gap(*minute(9))]


async def test_a_gap_of_which_more_was_recorded_is_in_another_state(gaps: RedisGaps) -> None:
    states = set()
    for ago in (3, 3, 4, 3):
        await gaps.record([minute(ago)[0]])
        (before,), (gap,) = await gaps.read(), await gaps.read()
        assert gap.state == before.state
        states.add(gap.state)
    assert len(states) == 4


async def test_what_is_older_than_any_timeline_is_forgotten(gaps: RedisGaps) -> None:
    await gaps.record([minute(9 * 24 * 60)[0]])
    await gaps.record([minute(1)[0]])
    assert await gaps.read() == [Gap(*minute(1))]


def test_the_copies_are_spread_evenly() -> None:
    assert [slot_of_key(key) * COPIES // SLOTS for key in gap_keys()] == list(range(COPIES))


async def test_a_node_that_dies_takes_no_gap_with_it(valkey_cluster: ValkeyCluster) -> None:
    redis = await connect(valkey_cluster.addresses, timeout_s=0.5)
    gaps = RedisGaps(redis, CLOCK)
    await gaps.record([minute(5)[0]])
    valkey_cluster.kill(0)
    await gaps.record([minute(2)[0]])
    assert await gaps.read() == [Gap(*minute(2)), Gap(*minute(5))]
    valkey_cluster.kill(1)
    with pytest.raises(Unavailable):
        await gaps.record([minute(1)[0]])
    with pytest.raises(Unavailable):
        await gaps.read()
    await redis.close()
