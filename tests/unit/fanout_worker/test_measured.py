"""How far behind a consumer is: the age of what is in hand, and what its records stand for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from feedmesh.events.v1.envelope_pb2 import Envelope
from feedmesh.events.v1.fanout_events_pb2 import FanoutChunk
from feedmesh.events.v1.post_events_pb2 import PostCreated

from fanout_worker.edge.measured import Measured, chunk_deliveries, large_deliveries, small_deliveries
from foundation.events.consumer import Batch
from foundation.events.port import POSTS_CREATED, Record
from foundation.model.clock import Millis
from foundation.model.tiers import Tier


class HandClock:
    """Stands where the test puts it."""

    ms = 100_000

    def now_ms(self) -> Millis:
        return Millis(self.ms)

    def monotonic(self) -> float:
        return self.ms / 1_000


def batch(*ages_s: float, followers: int = 10) -> Batch:
    envelope = Envelope(post_created=PostCreated(author_followers=followers))
    return [
        (Record(POSTS_CREATED, 0, place, 1, b"", round(100_000 - age_s * 1_000)), envelope)
        for place, age_s in enumerate(ages_s)
    ]


async def test_the_oldest_record_in_hand_ages_until_its_batch_is_done() -> None:
    clock = HandClock()
    held = asyncio.Event()

    async def handle(_: Batch) -> Sequence[None] | None:
        await held.wait()
        return None

    measured = Measured(handle, small_deliveries, clock)  # type: ignore[arg-type]  # postpones nothing
    assert measured.sample_s(idle=False) == 0
    work = asyncio.create_task(measured(batch(2, 7, 1)))
    await asyncio.sleep(0)
    assert measured.sample_s(idle=False) == 7
    clock.ms += 60_000
    assert measured.sample_s(idle=False) == 67
    held.set()
    await work
    assert measured.sample_s(idle=True) == 0
    assert measured.sample_s(idle=False) == 0


async def test_a_batch_that_ended_between_two_samples_counts_at_the_next_one() -> None:
    clock = HandClock()

    async def handle(_: Batch) -> None:
        return None

    measured = Measured(handle, small_deliveries, clock)
    await measured(batch(30))
    await measured(batch(1))
    assert measured.sample_s(idle=False) == 30
    assert measured.sample_s(idle=False) == 1


async def test_records_stand_for_what_they_stood_for_lately() -> None:
    async def handle(_: Batch) -> None:
        return None

    measured = Measured(handle, small_deliveries, HandClock())
    assert measured.deliveries_per_record is None
    await measured(batch(1, 1, followers=100))
    assert measured.deliveries_per_record == 100
    await measured(batch(1, followers=200))
    assert measured.deliveries_per_record == pytest.approx(120)


def test_every_delivery_is_weighed_by_one_consumer() -> None:
    def post(followers: int, tier: int = Tier.PUSH) -> Envelope:
        return Envelope(post_created=PostCreated(author_followers=followers, author_tier=tier))

    table = [
        (post(0), 200, 0),
        (post(7), 7, 0),
        (post(1_000), 1_000, 0),
        (post(1_001), 0, 1_001),
        (post(20_000, Tier.BOTH), 0, 20_000),
        (post(20_000, Tier.PULL), 0, 0),
    ]
    assert [(small_deliveries(one), large_deliveries(one)) for one, _, _ in table] == [(a, b) for _, a, b in table]
    assert chunk_deliveries(Envelope(fanout_chunk=FanoutChunk(deliveries=5_000))) == 5_000
