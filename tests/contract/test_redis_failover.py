"""Primaries that die, freeze, come back empty, or give their slots away under load (rule 5 of the design)."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from feedmesh.events.v1.post_events_pb2 import PostCreated

from fanout_worker.edge.records import NODE_AWAY
from foundation.errors import Unavailable
from foundation.events.consumer import Batch, Consumer
from foundation.events.envelope import encode
from foundation.events.port import POSTS_CREATED, Event
from foundation.events.retries import Postponed
from foundation.events.retry_consumers import retry_consumers
from foundation.events.sql_log import LOG_TABLES, SqlEventLog
from foundation.model.clock import SystemClock
from foundation.redis import client as subject
from foundation.redis.client import RedisCluster, connect, slot_of_key
from foundation.sql.database import open_database
from foundation.timeline.port import Pushed, Share, Timeline
from foundation.timeline.redis import FEED, RedisTimelines, timeline_key
from tests.kit.eventually import eventually
from tests.kit.valkey import MODES, ReplicatedCluster, ValkeyCluster, ask

GROUP = "fanout.posts"
AUTHOR = 7


@asynccontextmanager
async def connected(cluster: ValkeyCluster, *, scripts: subject.ScriptMode = "auto") -> AsyncIterator[RedisCluster]:
    redis = await connect(cluster.addresses, scripts=scripts, timeout_s=0.5)
    try:
        yield redis
    finally:
        await redis.close()


def owners_at(cluster: ValkeyCluster, place: int, count: int) -> list[int]:
    return [n for n in range(1, count * 30) if slot_of_key(str(n)) * len(cluster.ports) // 16_384 == place][:count]


async def build(feeds: RedisTimelines, owners: Sequence[int]) -> None:
    for owner in owners:
        assert await feeds.begin(owner, "t", 0)
        assert await feeds.commit(owner, "t", [], 0)


async def replicated(cluster: ReplicatedCluster, place: int) -> None:
    """Returns once the replica has all that its primary has."""

    async def equal() -> bool:
        ports = (cluster.ports[place], cluster.replica_ports[place])
        primary, replica = [await asyncio.to_thread(ask, port, "DBSIZE") for port in ports]
        return bool(primary == replica)

    await eventually(equal)


# A replica takes over


async def test_a_promotion_is_told_and_a_restart_or_a_move_is_not(
    replicated_cluster: ReplicatedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "LOOK_EVERY_S", 0.2)
    told: list[str] = []
    async with connected(replicated_cluster) as redis:
        end = redis.on_primary_change(lambda: told.append("one"))
        redis.on_primary_change(lambda: told.append("other"))
        await replicated(replicated_cluster, 1)
        replicated_cluster.kill(1)

        # Nobody sends a command: it is noticed all the same.
        async def noticed() -> bool:
            return bool(told)

        await eventually(noticed, timeout_s=20)
        assert told == ["one", "other"]
        assert redis.primary_changes == 1
        (owner,) = owners_at(replicated_cluster, 1, 1)
        assert await redis.execute([("SET", timeline_key(FEED, owner), 1)]) == [b"OK"]
        assert ask(replicated_cluster.replica_ports[1], "ROLE")[0] == b"master"
        end()
        end()
        assert told == ["one", "other"]


async def test_what_the_promoted_replica_lacks_is_pushed_again(
    replicated_cluster: ReplicatedCluster, tmp_path: Path
) -> None:
    """The worker's part of rule 5, with its own consumers, script and log."""
    place = 2
    owners = [*owners_at(replicated_cluster, place, 20), *owners_at(replicated_cluster, 0, 20)]
    clock = SystemClock()
    async with (
        connected(replicated_cluster) as redis,
        open_database(f"sqlite:///{tmp_path}/log.db", LOG_TABLES) as database,
    ):
        feeds, log = RedisTimelines(redis, FEED), SqlEventLog(database, clock)

        async def handle(batch: Batch) -> Sequence[Postponed]:
            followers = np.array(owners, dtype=np.int64)
            told = await feeds.deliver([Share(envelope.post_created.post_id, followers) for _, envelope in batch])
            return [
                Postponed(record, NODE_AWAY, counted=False)
                for (record, _), failed in zip(batch, told.failed, strict=True)
                if failed
            ]

        consumer = Consumer(log, group=GROUP, topics=[POSTS_CREATED], handle=handle, clock=clock)
        consumers = [consumer, *retry_consumers(log, service="fanout", handlers={GROUP: handle}, clock=clock)]
        for one in consumers:
            redis.on_primary_change(one.repeat_recent)
        await build(feeds, owners)
        await replicated(replicated_cluster, place)

        async def post(*post_ids: int) -> None:
            await log.append(
                [
                    Event(
                        POSTS_CREATED, AUTHOR, encode(PostCreated(post_id=n, author_id=AUTHOR), event_id=n, version=1)
                    )
                    for n in post_ids
                ]
            )

        async def everywhere(*post_ids: int) -> bool:
            try:
                found = await feeds.read(owners)
            except Unavailable:
                return False
            return found == {owner: Timeline(sorted(post_ids, reverse=True), 0) for owner in owners}

        async with AsyncExitStack() as running:
            for one in consumers:
                await running.enter_async_context(one.running())
            await post(1, 2)
            await eventually(lambda: everywhere(1, 2))
            replicated_cluster.cut_off(place)
            await post(3, 4)
            await eventually(lambda: everywhere(1, 2, 3, 4))
            await eventually(consumer.drained)
            replicated_cluster.kill(place)
            await eventually(lambda: everywhere(1, 2, 3, 4), timeout_s=30)
            assert redis.primary_changes == 1
            await post(5)
            await eventually(lambda: everywhere(1, 2, 3, 4, 5))


# A node comes back


async def test_a_node_that_comes_back_empty_is_cold_and_its_lists_are_rebuilt_complete(
    valkey_cluster: ValkeyCluster,
) -> None:
    told: list[None] = []
    owners = owners_at(valkey_cluster, 1, 10)
    async with connected(valkey_cluster) as redis:
        redis.on_primary_change(lambda: told.append(None))
        feeds = RedisTimelines(redis, FEED)
        await build(feeds, owners)
        for post in (1, 2, 3):
            assert set((await feeds.push(owners, post)).values()) == {Pushed.DONE}
        valkey_cluster.kill(1)
        valkey_cluster.revive(1)

        async def answers() -> bool:
            return Pushed.FAILED not in (await feeds.push(owners, 4)).values()

        await eventually(answers)
        # Nothing tells a list that lost ids from a whole one; a list that is gone is told by its absence.
        assert await feeds.push(owners, 4) == dict.fromkeys(owners, Pushed.COLD)
        assert await feeds.read(owners) == {}
        for owner in owners:
            assert await feeds.begin(owner, "again", 0)
            assert await feeds.push([owner], 5) == {owner: Pushed.DONE}
            assert await feeds.commit(owner, "again", [1, 2, 3, 4], 0)
        assert await feeds.read(owners) == {owner: Timeline([5, 4, 3, 2, 1], 0) for owner in owners}
        assert told == []
        assert redis.primary_changes == 0


async def test_a_node_that_froze_fails_its_share_and_takes_it_again(valkey_cluster: ValkeyCluster) -> None:
    frozen, fine = owners_at(valkey_cluster, 0, 10), owners_at(valkey_cluster, 1, 10)
    async with connected(valkey_cluster) as redis:
        feeds = RedisTimelines(redis, FEED)
        await build(feeds, [*frozen, *fine])
        os.kill(valkey_cluster.pid(0), signal.SIGSTOP)
        try:
            loop = asyncio.get_running_loop()
            until = loop.time() + 3
            post = 0
            while loop.time() < until:
                post += 1
                outcome = await feeds.push([*frozen, *fine], post)
                assert outcome == {**dict.fromkeys(frozen, Pushed.FAILED), **dict.fromkeys(fine, Pushed.DONE)}
                await asyncio.sleep(0.05)  # a node that is known to be silent fails at once
        finally:
            os.kill(valkey_cluster.pid(0), signal.SIGCONT)

        async def taken() -> bool:
            return Pushed.FAILED not in (await feeds.push(frozen, post + 1)).values()

        await eventually(taken)
        for earlier in range(1, post + 1):  # as the retry tier does
            assert set((await feeds.push(frozen, earlier)).values()) == {Pushed.DONE}
        newest_first = list(range(post + 1, 0, -1))
        assert await feeds.read(frozen) == {owner: Timeline(newest_first, 0) for owner in frozen}
        assert await feeds.read(fine) == {owner: Timeline(newest_first[1:], 0) for owner in fine}
        assert redis.primary_changes == 0


# Slots move under load


@pytest.mark.parametrize("scripts", MODES)
async def test_slots_that_move_under_load_lose_nothing(
    valkey_cluster: ValkeyCluster, scripts: subject.ScriptMode
) -> None:
    source, target = valkey_cluster.ports[0], valkey_cluster.ports[2]
    owners = [*owners_at(valkey_cluster, 0, 40), *owners_at(valkey_cluster, 1, 20)]
    moving = sorted({slot_of_key(timeline_key(FEED, owner)) for owner in owners_at(valkey_cluster, 0, 40)})
    posts: list[int] = []
    moved = asyncio.Event()
    async with connected(valkey_cluster, scripts=scripts) as redis, connected(valkey_cluster, scripts=scripts) as other:
        feeds = RedisTimelines(redis, FEED)
        await build(feeds, owners)

        async def push(through: RedisTimelines, start: int) -> None:
            post = start
            while not moved.is_set():
                post += 2
                pairs = [(owner, post) for owner in owners]
                while Pushed.FAILED in (outcome := await through.push_each(pairs)):
                    assert Pushed.COLD not in outcome
                assert set(outcome) == {Pushed.DONE}
                posts.append(post)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(push(feeds, 0))
            tasks.create_task(push(RedisTimelines(other, FEED), 1))
            try:
                await asyncio.to_thread(move_slots, valkey_cluster, moving, source, target)
            finally:
                moved.set()
        assert len(posts) > 20
        everything = sorted(posts, reverse=True)
        found = await feeds.read(owners)
        for owner in owners:
            assert list(found[owner].ids) == everything[: len(found[owner].ids)]
            assert found[owner].floor == (everything[500] if len(everything) > 500 else 0)
        assert redis.primary_changes == 0  # moved by plan: nothing is to be pushed again
        for slot in moving:
            assert ask(source, "CLUSTER", "COUNTKEYSINSLOT", slot) == 0


def move_slots(cluster: ValkeyCluster, slots: Sequence[int], source: int, target: int) -> None:
    """As operators' tools do it, key by key."""
    source_id, target_id = (ask(port, "CLUSTER", "MYID").decode() for port in (source, target))
    # A target that never saw the scripts: as a node that joined a moment ago.
    assert ask(target, "SCRIPT", "FLUSH") == b"OK"
    for slot in slots:
        assert ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source_id) == b"OK"
        assert ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id) == b"OK"
        while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            assert ask(source, "MIGRATE", "127.0.0.1", target, keys[0], 0, 5_000) == b"OK"
        for port in (target, source, *cluster.ports):
            assert ask(port, "CLUSTER", "SETSLOT", slot, "NODE", target_id) == b"OK"


# Callers who give up


@pytest.mark.parametrize("seed", [1, 2])
async def test_thousands_of_callers_of_whom_a_third_gives_up_get_their_own_replies(
    valkey_cluster: ValkeyCluster, seed: int
) -> None:
    chance = random.Random(seed)
    keys = [f"k{n}" for n in range(500)]
    async with connected(valkey_cluster) as redis:
        await redis.execute([("SET", key, f"of {key}") for key in keys])
        answered = cancelled = 0

        async def get(key: str) -> None:
            nonlocal answered
            assert await redis.execute([("GET", key)], timeout_s=10) == [b"of " + key.encode()]
            answered += 1

        tasks: list[asyncio.Task[None]] = []
        for n in range(4_000):
            tasks.append(asyncio.create_task(get(chance.choice(keys))))
            if chance.random() < 0.3:
                tasks[chance.randrange(max(0, n - 20), n + 1)].cancel()
            if chance.random() < 0.05:
                await asyncio.sleep(0)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, asyncio.CancelledError):
                cancelled += 1
            else:
                assert outcome is None
        assert cancelled > 500
        assert answered == 4_000 - cancelled
