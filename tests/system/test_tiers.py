"""An author crosses borders in a mesh with low ones: no post is lost or doubled in any feed, while or after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from foundation.model.tiers import Tier
from foundation.redis.client import RedisCluster
from tests.kit.composed import ComposedMesh, composed_mesh

PULL_FROM, SUPER_FROM = 4, 7


@pytest.fixture
async def mesh(valkey: int, redis: RedisCluster, tmp_path: Path) -> AsyncIterator[ComposedMesh]:
    """Authors are pulled from PULL_FROM followers on."""
    graph = {"tier_pull_from": PULL_FROM, "tier_super_from": SUPER_FROM, "tier_job_every_s": 0.05}
    worker = {"inline_up_to": 1, "pull_from": PULL_FROM}
    async with composed_mesh(valkey, redis, tmp_path, graph=graph, worker=worker) as running:
        yield running


async def test_a_crossing_author_is_neither_lost_nor_doubled_in_any_feed(mesh: ComposedMesh) -> None:
    ana, *crowd = await mesh.people(9)
    await mesh.all_see(crowd, [])

    await mesh.follow(crowd[:2], ana)
    pushed = await mesh.post_by_another(ana, worker=11)
    assert await mesh.was_pushed(crowd[0], pushed)
    await mesh.all_see(crowd[:2], [pushed])

    await mesh.follow(crowd[2:5], ana)
    await mesh.becomes(ana, Tier.PULL)
    pulled = await mesh.post_by_another(ana, worker=12)
    assert not await mesh.was_pushed(crowd[0], pulled)
    await mesh.follow(crowd[5:6], ana)
    await mesh.settled()
    await mesh.all_see(crowd[:6], [pulled, pushed])
    await mesh.all_see(crowd[6:], [])

    await mesh.follow(crowd[6:], ana)
    await mesh.becomes(ana, Tier.SUPER)
    cached = await mesh.post_by_another(ana, worker=13)
    assert not await mesh.was_pushed(crowd[0], cached)
    await mesh.all_see(crowd, [cached, pulled, pushed])

    await mesh.unfollow(crowd[3:], ana)
    await mesh.becomes(ana, Tier.BOTH)
    both = await mesh.post_by_another(ana, worker=14)
    assert await mesh.was_pushed(crowd[0], both)
    await mesh.all_see(crowd[:3], [both, cached, pulled, pushed])
    await mesh.all_see(crowd[3:], [])
