"""The contract of viewer and author records, read through (foundation.people), over a real Valkey and graph_svc."""

from __future__ import annotations

import pytest

from foundation.cards import author_key
from foundation.errors import DeadlineExceeded, DomainError, Internal, NotFound, Unavailable
from foundation.people import AUTHORS_PER_CALL, ReadThroughPeople
from foundation.redis.client import RedisCluster, connect
from foundation.viewers import viewer_key
from tests.kit.faults import Fault
from tests.kit.owners import Owners
from tests.kit.valkey import ValkeyCluster

NOBODY = 2**62


@pytest.fixture
def people(redis: RedisCluster, owners: Owners) -> ReadThroughPeople:
    return ReadThroughPeople(redis, owners.to_graph, timeout_s=1.0)


async def test_what_is_not_in_the_cache_comes_from_its_owner_and_is_there_then(
    redis: RedisCluster, owners: Owners, people: ReadThroughPeople
) -> None:
    ana, bo = await owners.people("ana", "bo")
    await owners.follow(ana, bo)
    await redis.flush_all()
    assert (await people.viewer(ana)).follows == {bo}
    authors = await people.authors([ana, bo, NOBODY])
    assert {author: card.facts.author_id for author, card in authors.items()} == {ana: ana, bo: bo}
    keys = [viewer_key(ana), author_key(ana), author_key(bo)]
    assert await redis.execute([("EXISTS", key) for key in keys]) == [1, 1, 1]
    await owners.graph.wire.breaks(Fault.DOWN)
    assert (await people.viewer(ana)).follows == {bo}
    assert await people.authors([bo, ana]) == {author: authors[author] for author in (ana, bo)}


async def test_nobody_is_nobody(people: ReadThroughPeople) -> None:
    with pytest.raises(NotFound, match="no such user"):
        await people.viewer(NOBODY)
    assert await people.authors([NOBODY]) == {}
    assert await people.authors([]) == {}


async def test_more_authors_than_one_call_takes(redis: RedisCluster, owners: Owners, people: ReadThroughPeople) -> None:
    many = await owners.people(*(f"friend{place}" for place in range(AUTHORS_PER_CALL + 2)))
    await redis.flush_all()
    assert (await people.authors(many)).keys() == {*many}


@pytest.mark.parametrize("record", [b"", b"\xff\xfe a layout of later days"])
async def test_a_record_that_nobody_can_read_is_a_miss(
    redis: RedisCluster, owners: Owners, people: ReadThroughPeople, record: bytes
) -> None:
    ana, bo = await owners.people("ana", "bo")
    await owners.follow(ana, bo)
    await redis.execute([("SET", viewer_key(ana), record), ("SET", author_key(ana), record)])
    assert (await people.viewer(ana)).follows == {bo}
    assert (await people.authors([ana])).keys() == {ana}


async def test_another_type_of_value_is_a_miss_too(
    redis: RedisCluster, owners: Owners, people: ReadThroughPeople
) -> None:
    ana, bo = await owners.people("ana", "bo")
    await redis.flush_all()
    await redis.execute([("LPUSH", viewer_key(ana), 1), ("LPUSH", author_key(ana), 1)])
    assert (await people.viewer(ana)).follows == set()
    assert (await people.authors([ana, bo])).keys() == {ana, bo}


async def test_what_the_owner_fails_with(redis: RedisCluster, owners: Owners) -> None:
    (ana,) = await owners.people("ana")
    people = ReadThroughPeople(redis, owners.to_graph, timeout_s=0.2)

    async def fails(kind: type[DomainError]) -> None:
        await redis.flush_all()  # an owner whose answer is spoiled on the way has filled it
        with pytest.raises(kind):
            await people.viewer(ana)
        with pytest.raises(kind):
            await people.authors([ana])

    owners.graph.hangs()
    await fails(DeadlineExceeded)
    await owners.graph.heals()
    owners.graph.fails()
    await fails(Unavailable)
    await owners.graph.heals()
    for nonsense in (b"\xff\xff no message", b""):
        owners.graph.answers("GetViewerGraph", lambda _, nonsense=nonsense: nonsense)  # type: ignore[misc]
        owners.graph.answers("BatchGetAuthors", lambda _, nonsense=nonsense: nonsense)  # type: ignore[misc]
        await fails(Internal)
    await owners.graph.wire.breaks(Fault.DOWN)
    await fails(Unavailable)


async def test_a_dead_node_of_the_cache_is_done_without(valkey_cluster: ValkeyCluster, owners: Owners) -> None:
    many = await owners.people(*(f"friend{place}" for place in range(30)))
    redis = await connect(valkey_cluster.addresses, timeout_s=1.0)
    people = ReadThroughPeople(redis, owners.to_graph, timeout_s=1.0)
    valkey_cluster.kill(1)
    assert (await people.authors(many)).keys() == {*many}
    assert all([(await people.viewer(one)).follows == set() for one in many])
    await redis.close()
