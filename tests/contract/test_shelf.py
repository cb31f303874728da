"""The contract of the shelf (feed_svc.ports.Shelf), over a real Valkey, post_svc and graph_svc."""

from __future__ import annotations

import pytest

from feed_svc.adapters.homes_redis import RedisHomes
from feed_svc.adapters.kept_cards import KeptCards
from feed_svc.adapters.shelf import ReadThroughShelf
from feed_svc.degradation import noting
from feed_svc.model import Degraded
from foundation.card_changes import RedisCardChanges, change_keys
from foundation.cards import author_key, card_key
from foundation.model.clock import SystemClock, SystemRandomness
from foundation.people import ReadThroughPeople
from foundation.redis.client import RedisCluster, connect
from tests.kit.eventually import eventually
from tests.kit.faults import Fault
from tests.kit.owners import Owners
from tests.kit.valkey import ValkeyCluster

NOTHING = 2**62
JUNK = b"\xff\xff no message"
CACHE = {Degraded.CACHE_UNAVAILABLE}


def shelf_of(
    redis: RedisCluster, owners: Owners, *, capacity: int = 1_000, kept: KeptCards | None = None
) -> ReadThroughShelf:
    people = ReadThroughPeople(redis, owners.to_graph, timeout_s=0.2)
    kept = kept or KeptCards(SystemClock(), capacity=0)
    return ReadThroughShelf(
        redis, posts=owners.to_posts, people=people, kept=kept, capacity=capacity, read_within_s=0.2
    )


async def two_posts(owners: Owners) -> tuple[int, int, int, int]:
    """Ana, Bo, and a post of each."""
    ana, bo = await owners.people("ana", "bo")
    of_ana, of_bo = await owners.write(ana, bo)
    return ana, bo, of_ana, of_bo


async def test_what_is_not_in_the_cache_comes_from_its_owners_and_is_there_then(
    redis: RedisCluster, owners: Owners
) -> None:
    ana, bo, of_ana, of_bo = await two_posts(owners)
    await redis.flush_all()
    with noting() as noted:
        records = await shelf_of(redis, owners).fetch([of_bo, of_ana])
    assert {post: card.author_id for post, card in records.cards.items()} == {of_ana: ana, of_bo: bo}
    assert records.authors.keys() == {ana, bo}
    assert (records.whole, noted) == (True, set())
    keys = [card_key(of_ana), card_key(of_bo), author_key(ana), author_key(bo)]
    assert await redis.execute([("EXISTS", key) for key in keys]) == [1, 1, 1, 1]
    await owners.posts.wire.breaks(Fault.DOWN)
    await owners.graph.wire.breaks(Fault.DOWN)
    shelf = shelf_of(redis, owners)
    assert await shelf.fetch([of_bo, of_ana]) == records
    assert await shelf.fetch([of_bo, of_ana]) == records, "also when it knows the authors, and asks for all at once"


async def test_what_the_process_keeps_is_shown_to_who_has_read_what_changed(
    redis: RedisCluster, owners: Owners
) -> None:
    ana, _, of_ana, of_bo = await two_posts(owners)
    kept = KeptCards(SystemClock(), capacity=100)
    shelf = shelf_of(redis, owners, kept=kept)
    changes = RedisCardChanges(redis, SystemRandomness())
    homes = RedisHomes(redis, kept, read_within_s=1.0, recommendations=False)
    async with kept.running(redis, changes):
        await homes.load(ana)
        whole = await shelf.fetch([of_ana, of_bo])
        # From here on neither the cache nor the owners have anything.
        await redis.execute([("DEL", key) for key in (card_key(of_ana), card_key(of_bo), author_key(ana))])
        await owners.posts.wire.breaks(Fault.DOWN)
        await owners.graph.wire.breaks(Fault.DOWN)
        await homes.load(ana)
        assert await shelf.fetch([of_ana, of_bo]) == whole
        await changes.record([of_bo], timeout_s=1)
        await homes.resume(ana)
        assert (await shelf.fetch([of_ana, of_bo])).cards.keys() == {of_ana}
        await redis.execute([("DEL", key) for key in change_keys()])
        await homes.load(ana)
        assert (await shelf.fetch([of_ana])).cards == {}, "nobody can say what changed"

        async def begun() -> bool:
            await homes.load(ana)
            return kept.checked

        await eventually(begun, timeout_s=3)
        assert (await shelf.fetch([of_ana])).cards == {}, "what was kept before is forgotten"


async def test_what_does_not_exist_has_no_entry_and_nothing_is_missing(redis: RedisCluster, owners: Owners) -> None:
    ana, _, of_ana, _ = await two_posts(owners)
    records = await shelf_of(redis, owners).fetch([NOTHING, of_ana])
    assert (records.cards.keys(), records.authors.keys(), records.whole) == ({of_ana}, {ana}, True)
    assert await shelf_of(redis, owners).fetch([]) == type(records)({}, {})


@pytest.mark.parametrize("way", ["silent", "failing", "gone", "no message", "nothing in it"])
@pytest.mark.parametrize("owner", ["posts", "graph"])
async def test_an_owner_who_does_not_answer_leaves_the_rest(
    redis: RedisCluster, owners: Owners, owner: str, way: str
) -> None:
    ana, bo, of_ana, of_bo = await two_posts(owners)
    shelf = shelf_of(redis, owners)
    await shelf.fetch([of_ana])
    await redis.execute([("DEL", card_key(of_bo) if owner == "posts" else author_key(bo))])
    link = getattr(owners, owner)
    match way:
        case "silent":
            link.hangs()
        case "failing":
            link.fails()
        case "gone":
            await link.wire.breaks(Fault.DOWN)
        case _:
            for method in ("BatchGetPosts", "BatchGetAuthors"):
                link.answers(method, lambda _: JUNK if way == "no message" else b"")
    with noting() as noted:
        records = await shelf.fetch([of_ana, of_bo])
    assert records.cards.keys() == ({of_ana} if owner == "posts" else {of_ana, of_bo})
    assert records.authors.keys() == {ana}
    # An answer without posts is one: they do not exist. Authors are answered for in the order asked.
    assert records.whole is (owner == "posts" and way == "nothing in it")
    assert noted == set(), "the cache has answered"


@pytest.mark.parametrize("record", [b"", b"\xff\xfe a layout of later days"])
async def test_a_record_that_nobody_can_read_is_a_miss(redis: RedisCluster, owners: Owners, record: bytes) -> None:
    ana, _, of_ana, _ = await two_posts(owners)
    await redis.execute([("SET", card_key(of_ana), record), ("SET", author_key(ana), record)])
    with noting() as noted:
        records = await shelf_of(redis, owners).fetch([of_ana])
    assert (records.cards.keys(), records.authors.keys(), records.whole) == ({of_ana}, {ana}, True)
    assert noted == set()


async def test_a_dead_node_of_the_cache_is_told_and_done_without(valkey_cluster: ValkeyCluster, owners: Owners) -> None:
    many = await owners.people(*(f"friend{place}" for place in range(30)))
    posts = await owners.write(*many)
    redis = await connect(valkey_cluster.addresses, timeout_s=1.0)
    shelf = shelf_of(redis, owners)
    with noting() as noted:
        before = await shelf.fetch(posts)
    assert (before.whole, noted) == (True, set())
    valkey_cluster.kill(1)
    with noting() as noted:
        records = await shelf.fetch(posts)
    assert (records.cards.keys(), records.authors.keys(), records.whole) == ({*posts}, {*many}, True)
    assert noted == CACHE
    await redis.close()


async def test_who_wrote_what_is_remembered_and_read_where_it_is_not_known(redis: RedisCluster, owners: Owners) -> None:
    ana, bo, of_ana, of_bo = await two_posts(owners)
    shelf = shelf_of(redis, owners)
    await shelf.fetch([of_ana, of_bo])
    await redis.flush_all()
    assert await shelf.authors_of([of_bo, NOTHING, of_ana]) == [bo, 0, ana]
    fresh = shelf_of(redis, owners)
    assert await fresh.authors_of([of_bo]) == [0], "it asks the cache alone"
    await shelf_of(redis, owners).fetch([of_bo])
    assert await fresh.authors_of([of_bo]) == [bo]


async def test_what_is_remembered_is_bounded(redis: RedisCluster, owners: Owners) -> None:
    ana, _, of_ana, of_bo = await two_posts(owners)
    (newest,) = await owners.write(ana)
    shelf = shelf_of(redis, owners, capacity=2)
    await shelf.fetch([of_ana, of_bo])
    await shelf.fetch([newest])
    await redis.flush_all()
    known = await shelf.authors_of([of_ana, of_bo, newest])
    assert known[2] == ana
    assert sum(map(bool, known)) <= 2


@pytest.mark.parametrize("told", ["right", "unknown", "wrong"])
async def test_authors_that_the_caller_knows_only_save_a_round_trip(
    redis: RedisCluster, owners: Owners, told: str
) -> None:
    ana, bo, of_ana, of_bo = await two_posts(owners)
    author_ids = {"right": [bo, ana, 0], "unknown": [0, 0, 0], "wrong": [ana, NOTHING, bo]}[told]
    expected = await shelf_of(redis, owners).fetch([of_bo, of_ana, NOTHING])
    records = await shelf_of(redis, owners).fetch([of_bo, of_ana, NOTHING], author_ids)
    assert {post: card.author_id for post, card in records.cards.items()} == {of_bo: bo, of_ana: ana}
    assert {author: records.authors[author] for author in (ana, bo)} == expected.authors
    assert records.whole


async def test_authors_that_cannot_be_read_are_unknown(redis: RedisCluster, owners: Owners) -> None:
    shelf = shelf_of(redis, owners)
    await redis.execute([("LPUSH", card_key(1), 1), ("SET", card_key(2), b"\xff\xfe a layout of later days")])
    assert await shelf.authors_of([1, 2]) == [0, 0]
