"""The auditor beside a healthy mesh at work finds nothing wrong, whoever leaves or deletes; and it finds a loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb
from prometheus_client import REGISTRY

from foundation.model.clock import SystemClock
from foundation.redis.client import RedisCluster
from foundation.timeline.redis import FEED, timeline_key
from tests.kit.composed import ComposedMesh, composed_mesh
from tests.kit.eventually import eventually

WINDOWS_S = (3.0, 5.0, 7.0)
AUTHORS, READERS, FOLLOWED = 6, 24, 4
POSTS, POSTS_PER_S = 240, 30
DELETED_EVERY = 8
LEFT_EVERY = 20
"""After so many posts, one reader stops following their author, and another one blocks them."""
CHECKS = 2_000
"""Feeds looked at, at least: two thirds of five followers of each post at three times."""
AUDITED_OF_EACH = 5
"""Followers that the auditor looks at (fanout_worker.flows.audit_deliveries)."""
LOOK_AFTER_S = 1.5
"""The auditor looks twice a second."""
CLOCK = SystemClock()


@pytest.fixture
async def mesh(valkey: int, redis: RedisCluster, tmp_path: Path) -> AsyncIterator[ComposedMesh]:
    first, second, third = WINDOWS_S
    everything = {"audit_every_nth": 1, "audit_per_s": 10_000.0}
    soon = {"audit_first_s": first, "audit_second_s": second, "audit_third_s": third}
    async with composed_mesh(valkey, redis, tmp_path, graph={}, worker=everything | soon) as running:
        yield running


@pytest.mark.slow
async def test_a_healthy_mesh_under_load_is_found_healthy_and_a_planted_loss_is_found(mesh: ComposedMesh) -> None:
    zoe, *people = await mesh.people(1 + AUTHORS + READERS)
    authors, readers = people[:AUTHORS], people[AUTHORS:]
    for place, author in enumerate(authors):
        turns = [readers[(place * FOLLOWED + step) % READERS] for step in range(READERS * FOLLOWED // AUTHORS)]
        await mesh.follow(turns, author)
    await mesh.follow(readers[:AUDITED_OF_EACH], zoe)
    await mesh.settled()
    for reader in readers:  # their timelines are there from now on
        assert await mesh.seen(reader, feed_pb2.LATEST) == []

    before = audited()
    await _live(mesh, authors, readers)
    over = CLOCK.monotonic() + WINDOWS_S[-1] + LOOK_AFTER_S

    async def all_looked_at() -> bool:
        return audited()[0] - before[0] >= CHECKS and CLOCK.monotonic() > over

    await eventually(all_looked_at, timeout_s=30, every_s=0.2)
    checked, violations = audited()
    assert violations == before[1], f"{violations - before[1]} violations in {checked - before[0]} checks"

    lost = await mesh.post(zoe)
    await mesh.settled()
    assert await mesh.was_pushed(readers[0], lost)
    await mesh.redis.execute([("LREM", timeline_key(FEED, readers[0]), 1, lost)])

    async def found() -> bool:
        return audited()[1] - before[1] >= len(WINDOWS_S)

    await eventually(found, timeout_s=15, every_s=0.2)
    assert audited()[1] - before[1] == len(WINDOWS_S), "the one that was lost, at each look"


async def _live(mesh: ComposedMesh, authors: Sequence[int], readers: Sequence[int]) -> None:
    """Posts at a steady rate; some are deleted, some readers leave."""
    began = CLOCK.monotonic()
    for place in range(POSTS):
        await asyncio.sleep(max(0.0, began + place / POSTS_PER_S - CLOCK.monotonic()))
        author = authors[place % AUTHORS]
        post_id = await mesh.post(author)
        if place % DELETED_EVERY == 0:
            request = post_pb.DeletePostRequest(post_id=post_id)
            await mesh.posts.DeletePost(request, metadata=mesh.as_user(author), timeout=5)
        if place % LEFT_EVERY == 0:
            turn = place // LEFT_EVERY
            await mesh.unfollow([readers[turn % READERS]], author)
            block = graph_pb.BlockRequest(user_id=author)
            blocker = readers[(turn + READERS // 2) % READERS]
            await mesh.graph.Block(block, metadata=mesh.as_user(blocker), timeout=5)


def audited() -> tuple[float, float]:
    """Feeds looked at in all windows, and violations."""
    return _sum("feed_audit_checked_total"), _sum("feed_audit_violations_total")


def _sum(name: str) -> float:
    return sum(REGISTRY.get_sample_value(name, {"window": f"{window:g}s"}) or 0.0 for window in WINDOWS_S)
