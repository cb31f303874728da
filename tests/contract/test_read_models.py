"""The contract of viewer and author records (graph_svc.ports.ReadModels), over every store and a real Valkey."""

from __future__ import annotations

import asyncio
import time

import pytest

from foundation.card_changes import RedisCardChanges
from foundation.cards import author_key, decode_author
from foundation.errors import Unavailable
from foundation.model.clock import SystemRandomness
from foundation.redis.client import RedisCluster, connect, slot_of_key
from foundation.viewers import ViewerRecord, decode_viewer, viewer_key
from foundation.visibility import UserState
from graph_svc.adapters.read_models import FILL_WITHIN_S, TELL_WITHIN_S, ReadModelRecords
from tests.kit.eventually import eventually
from tests.kit.faults import Fault, redis_doors
from tests.kit.graph_stores import IDS, GraphStores, cql_graph_stores


async def told(redis: RedisCluster, user_id: int) -> ViewerRecord:
    (record,) = await redis.execute([("GET", viewer_key(user_id))])
    viewer = decode_viewer(record)
    assert viewer is not None
    return viewer


async def test_a_viewer_record_holds_the_edges(graph: GraphStores, redis: RedisCluster) -> None:
    records = ReadModelRecords(graph.rows, redis, RedisCardChanges(redis, SystemRandomness()))
    ana, bo, cy, di, ed = await graph.people(5)
    await graph.make_follow(ana, bo)
    await graph.make_follow(ana, ed)
    await graph.end_follow(ana, ed)
    await graph.block(ana, cy)
    await graph.block(di, ana)
    await graph.edges.mute(ana, bo)
    nobody, mine, theirs = await records.viewers([IDS.next(), ana, cy])
    assert nobody == b""
    viewer = decode_viewer(mine)
    assert viewer is not None
    assert (viewer.state, viewer.follows, viewer.blocks, viewer.mutes) == (UserState.ACTIVE, {bo}, {cy, di}, {bo})
    other = decode_viewer(theirs)
    assert other is not None
    assert other.blocks == {ana}


async def test_every_change_of_an_edge_raises_the_version(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    versions = [(await graph.viewer(ana)).version]
    for change in (
        graph.make_follow(ana, bo), graph.end_follow(ana, bo), graph.edges.mute(ana, bo), graph.edges.unmute(ana, bo),
        graph.block(bo, ana), graph.unblock(bo, ana), graph.block(ana, bo),
    ):  # fmt: skip
        await change
        versions.append((await graph.viewer(ana)).version)
    assert versions == sorted(set(versions))


async def test_an_older_record_never_replaces_a_newer_one(graph: GraphStores, redis: RedisCluster) -> None:
    records = ReadModelRecords(graph.rows, redis, RedisCardChanges(redis, SystemRandomness()))
    ana, bo = await graph.people(2)
    (old,) = await records.viewers([ana])
    await graph.make_follow(ana, bo)
    await records.tell_viewers([ana])
    before = decode_viewer(old)
    assert before is not None
    late = ReadModelRecords(_Frozen(graph, before.version), redis, RedisCardChanges(redis, SystemRandomness()))
    await late.tell_viewers([ana])
    assert (await told(redis, ana)).follows == {bo}
    await records.forget_viewers([ana])
    assert await redis.execute([("EXISTS", viewer_key(ana))]) == [0]


class _Frozen:
    """Rows as they were read before any edge was there."""

    def __init__(self, graph: GraphStores, version: int) -> None:
        self.author_facts = graph.rows.author_facts
        self._graph = graph
        self._version = version

    async def viewer_facts(self, user_ids):  # type: ignore[no-untyped-def]
        found = await self._graph.rows.viewer_facts(user_ids)
        return {
            user_id: type(facts)(version=self._version, state=facts.state, follows=(), blocks=(), mutes=(), marks={})
            for user_id, facts in found.items()
        }


async def test_a_fill_is_finished_when_its_caller_has_given_up(graph: GraphStores, redis: RedisCluster) -> None:
    ana, bo = await graph.people(2)
    await graph.make_follow(ana, bo)
    slow = _Slow(graph)
    records = ReadModelRecords(slow, redis, RedisCardChanges(redis, SystemRandomness()))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(records.fill_viewers([ana]), 0.05)
    assert await redis.execute([("EXISTS", viewer_key(ana))]) == [0]
    slow.answers.set()

    async def there() -> bool:
        return await redis.execute([("EXISTS", viewer_key(ana))]) == [1]

    await eventually(there, timeout_s=5)
    assert (await told(redis, ana)).follows == {bo}
    slow.answers.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(records.fill_viewers([bo]), 0.05)
    await records.close()
    slow.answers.set()
    await asyncio.sleep(0.05)
    assert await redis.execute([("EXISTS", viewer_key(bo))]) == [0]


async def test_a_silent_node_costs_a_reader_little_and_a_change_its_whole_time(graph: GraphStores, valkey: int) -> None:
    (ana,) = await graph.people(1)
    async with redis_doors(("127.0.0.1", valkey), {"one": [slot_of_key(viewer_key(ana))]}) as doors:
        client = await connect([("127.0.0.1", doors["one"].port)], timeout_s=1.0)
        records = ReadModelRecords(graph.rows, client, RedisCardChanges(client, SystemRandomness()))
        await records.tell_viewers([ana])
        await doors["one"].breaks(Fault.SILENT)
        began = time.monotonic()
        (record,) = await records.fill_viewers([ana])
        took_s = time.monotonic() - began
        assert record
        assert FILL_WITHIN_S <= took_s < TELL_WITHIN_S
        with pytest.raises(Unavailable):
            await records.tell_viewers([ana])
        await records.close()
        await client.close()


class _Slow:
    """Rows that come when they are told to."""

    def __init__(self, graph: GraphStores) -> None:
        self.author_facts = graph.rows.author_facts
        self.answers = asyncio.Event()
        self._graph = graph

    async def viewer_facts(self, user_ids):  # type: ignore[no-untyped-def]
        await self.answers.wait()
        return await self._graph.rows.viewer_facts(user_ids)


async def test_author_records_follow_the_profile(graph: GraphStores, redis: RedisCluster) -> None:
    records = ReadModelRecords(graph.rows, redis, RedisCardChanges(redis, SystemRandomness()))
    (ana,) = await graph.people(1)
    nobody, record = await records.authors([IDS.next(), ana])
    assert nobody == b""
    author = decode_author(ana, record)
    assert author is not None
    await graph.users.set_avatar(ana, "http://new")
    await records.tell_authors([ana])
    (stored,) = await redis.execute([("GET", author_key(ana))])
    changed = decode_author(ana, stored)
    assert changed is not None
    assert changed.version > author.version
    assert b"http://new" in changed.encoded


async def test_versions_grow_with_every_write_of_many_at_the_same_moment(keyspaces: dict[str, str]) -> None:
    async with cql_graph_stores(keyspaces) as one, cql_graph_stores(keyspaces) as other:
        ana, *others = await one.people(17)
        seen = []

        async def change(graph: GraphStores, user_id: int) -> None:
            before = (await graph.viewer(ana)).version
            await graph.edges.mute(ana, user_id)
            after = (await graph.viewer(ana)).version
            assert after > before
            seen.append(after)

        await asyncio.gather(*(change(one, user_id) for user_id in others))
        assert (await other.viewer(ana)).version == max(seen)
