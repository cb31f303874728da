"""Each part of a cluster dies or hangs under load, one after the other: `make nemesis`. The report is docs/nemesis.md.

Then there is more to deliver than can be, and records come again, out of order, or are none. After each fault every
acknowledged post is in every follower's feed exactly once, and nothing else is.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fanout_worker.model import Level
from feedmesh_cli.mesh_file import Mesh, load_mesh
from foundation.model.clock import SystemClock
from foundation.redis.client import RedisCluster
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_log, open_redis
from foundation.timeline.redis import FEED, RedisTimelines, timeline_key
from tests.kit.eventually import eventually
from tests.kit.mesh import running_mesh
from tests.nemesis.burst import LevelSeen, author_of_many, burst, left_to_readers, lists_are_exact
from tests.nemesis.load import FOLLOWED, Crowd, History
from tests.nemesis.records import DELIVERING, GROUPS, Told, buried, left_out, poison, strange, write_strange
from tests.nemesis.report import Line, Report

pytestmark = [pytest.mark.nemesis, pytest.mark.envoy, pytest.mark.slow, pytest.mark.timeout(600)]

PARTS = (
    "post_svc", "graph_svc", "feed_svc", "rank_svc", "fanout_worker", "envoy",
    "valkey-2", "kafka", "cassandra",
)  # fmt: skip
BEFORE_S = 3
HANG_S = 10
AFTER_S = 3
ROUNDS = 3
AGO_MS = 30_000
"""Before a test begins: its people's first follows are from then."""
LATE_S = 2.0
FOUND_WITHIN_S = 10.0
"""What was left to readers shows a second after it was recorded; the rest is the time that reading all feeds takes."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("nemesis"), "--profile", "cluster", "--restart-after", "2") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def report() -> Iterator[Report]:
    made = Report()
    yield made
    made.write(os.environ.get("FEEDMESH_NEMESIS_REPORT"))


@pytest.fixture
async def crowd(mesh: Mesh) -> AsyncIterator[Crowd]:
    made = await Crowd.gathered(mesh)
    yield made
    await made.client.close()


@pytest.fixture
async def redis(mesh: Mesh) -> AsyncIterator[RedisCluster]:
    async with open_redis(MeshSettings(redis=mesh.redis)) as client:
        yield client


def pid_of(mesh: Mesh, part: str) -> int:
    now = load_mesh(Path(mesh.data))
    assert now is not None
    return now.processes[part].pid


@pytest.mark.parametrize("part", PARTS)
async def test_a_part_that_is_killed(mesh: Mesh, crowd: Crowd, report: Report, part: str) -> None:
    async with crowd.busy() as history:
        await asyncio.sleep(BEFORE_S)
        os.kill(pid_of(mesh, part), signal.SIGKILL)
        await asyncio.sleep(0.5)
        healthy_s = await crowd.healthy()
        await asyncio.sleep(AFTER_S)
    await judged(crowd, history, report, f"SIGKILL {part}", healthy_s)


@pytest.mark.parametrize("part", PARTS)
async def test_a_part_that_hangs(mesh: Mesh, crowd: Crowd, report: Report, part: str) -> None:
    pid = pid_of(mesh, part)
    async with crowd.busy() as history:
        await asyncio.sleep(BEFORE_S)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(HANG_S)
        finally:
            os.kill(pid, signal.SIGCONT)
        healthy_s = await crowd.healthy()
        await asyncio.sleep(AFTER_S)
    await judged(crowd, history, report, f"SIGSTOP {part} for {HANG_S} s", healthy_s)


async def test_more_posts_than_can_be_delivered(mesh: Mesh, crowd: Crowd, report: Report, redis: RedisCluster) -> None:
    """Level 0 to 3 and back, by lag alone: what was left to readers is found, and put where it belongs."""
    author = await author_of_many(crowd, redis)
    waiting = crowd.ids[1::2]
    await crowd.client.latest_of_all(waiting)  # warm now, and not read again before the end
    seen = LevelSeen(redis, SystemClock())
    async with crowd.busy() as history:
        await asyncio.sleep(BEFORE_S)
        await burst(crowd, author, history, until=lambda: seen.is_now(Level.PULL_ALL))
        await eventually(lambda: seen.is_now(Level.NORMAL), timeout_s=60, every_s=0.2)
        await asyncio.sleep(AFTER_S)
    await crowd.client.settled()
    levels = await seen.by_lag()
    assert Level.PULL_ALL in levels
    assert levels[-1] is Level.NORMAL
    left = await left_to_readers(crowd, redis)
    assert any(crowd.model.author_of[post] != author for post in left), "the posts of others, too"
    lists = await RedisTimelines(redis, FEED).read(waiting)
    assert all((left & {*crowd.model.latest(user)}) - {*lists[user].ids} for user in waiting), "nobody pushed them"
    await judged(crowd, history, report, "more posts than can be delivered: level 0, 3, 0", 0.0)
    assert (report.lines[-1].complete_s or 0.0) < FOUND_WITHIN_S
    await lists_are_exact(crowd, redis)


async def test_records_that_are_told_again(mesh: Mesh, crowd: Crowd, report: Report, redis: RedisCluster) -> None:
    """Twice and out of order: posts, some deleted since; follows, some ended since; chunks."""
    began_ms = SystemClock().now_ms()
    author = await author_of_many(crowd, redis)
    chance = np.random.default_rng(1)
    await crowd.change_follows()
    async with (
        crowd.busy() as history,
        open_log(MeshSettings(log_url=mesh.log_url)) as log,
        Told(log, began_ms - AGO_MS).heard() as told,
    ):
        gone = [await crowd.write_one(writer, history) for writer in [author, *crowd.ids]]
        await asyncio.sleep(BEFORE_S)
        await crowd.delete(gone[::2])
        records = 0
        for _ in range(ROUNDS):
            latest = await crowd.write_one(author, history)
            await eventually(partial(told.holds, [*gone, latest]), timeout_s=30, every_s=0.5)
            records += await told.again(chance)
        await asyncio.sleep(AFTER_S)
    await crowd.client.settled()
    await judged(crowd, history, report, f"{records:,} records told again, out of order", 0.0)
    assert await crowd.follower_counts() == {user: crowd.model.follower_count(user) for user in crowd.ids}
    assert not await buried(mesh, since_ms=began_ms)
    lists = await redis.execute([("LRANGE", timeline_key(FEED, user), 0, -1) for user in crowd.ids], timeout_s=5)
    assert all(len({*one}) == len(one) for one in lists), "a timeline holds an id once"


async def test_records_that_nobody_can_handle(mesh: Mesh, crowd: Crowd, report: Report) -> None:
    """They are put away or left out by each group that meets them, counted, and nobody waits for them."""
    async with crowd.busy() as before:
        author, other, follower = crowd.ids[0], crowd.ids[1], crowd.ids[-FOLLOWED]
        post, deleted = [await crowd.write_one(author, before) for _ in range(2)]
        await crowd.delete([deleted])
        await asyncio.sleep(BEFORE_S)
    began_ms = SystemClock().now_ms()
    told = poison(author=author, other=other, follower=follower, post=post, deleted=deleted)
    left_out_before = await left_out(mesh)
    async with crowd.busy() as history, open_log(MeshSettings(log_url=mesh.log_url)) as log:
        strangers = strange()
        await write_strange(mesh, strangers)
        for event in told.events:
            await log.append([event])
            await asyncio.sleep(0.05)
        await asyncio.sleep(AFTER_S)
    await crowd.client.settled()
    await judged(crowd, history, report, f"{len(told.events) + len(strangers)} records that nobody can handle", 0.0)
    assert await crowd.follower_counts() == {user: crowd.model.follower_count(user) for user in crowd.ids}
    assert max(history.delays_s) < max(before.delays_s) + LATE_S
    letters = await buried(mesh, since_ms=began_ms)
    assert letters == {(one.key, group): 1 for one in (*told.undecodable, *strangers) for group in GROUPS[one.topic]}
    ignored = await left_out(mesh) - left_out_before
    assert ignored == Counter(
        (event.topic, reason) for event, reason in told.senseless for _ in DELIVERING[event.topic]
    )


async def judged(crowd: Crowd, history: History, report: Report, fault: str, healthy_s: float) -> None:
    line = Line(fault=fault, history=history, healthy_s=healthy_s, complete_s=None)
    report.lines.append(line)
    line.complete_s = await crowd.complete()
    assert not history.strange
    assert history.acknowledged > 50
