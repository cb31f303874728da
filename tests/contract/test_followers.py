"""The contract of followers rows and counts: exact under redelivery, reordering and stale events, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundation.cql.session import Call, Cql, Row
from foundation.errors import Unavailable
from graph_svc.adapters.followers_cql import CqlFollowers
from graph_svc.model import AppliedFollow
from tests.kit.cassandra import migrated
from tests.kit.graph_stores import IDS, GraphStores, cql_graph_stores, sql_graph_stores


async def test_a_follow_delivered_twice_counts_once(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    await graph.make_follow(ana, bo)
    assert await graph.followers.apply(graph.events) == graph.events
    assert await graph.followers.apply(graph.events * 2) == graph.events
    assert (await graph.user(bo)).follower_count == 1
    assert await graph.streamed(bo) == [ana]


async def test_a_stale_follow_does_not_undo_a_newer_unfollow(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    await graph.make_follow(ana, bo)
    await graph.end_follow(ana, bo)
    followed, unfollowed = graph.events
    await graph.followers.apply([unfollowed])
    assert await graph.followers.apply([followed]) == []
    assert (await graph.user(bo)).follower_count == 0
    assert await graph.streamed(bo) == []


async def test_a_stale_unfollow_does_not_undo_a_newer_follow(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    await graph.make_follow(ana, bo)
    await graph.deliver()
    await graph.end_follow(ana, bo)
    await graph.make_follow(ana, bo)
    first, ended, again = graph.events
    assert await graph.followers.apply([first, ended]) == []
    assert await graph.followers.apply([again]) == [again]
    assert await graph.followers.apply([ended]) == []
    assert (await graph.user(bo)).follower_count == 1
    assert await graph.streamed(bo) == [ana]


async def test_an_unfollow_takes_the_follower_out_of_every_list(graph: GraphStores) -> None:
    ana, bo, cy = await graph.people(3)
    for follower in (ana, bo):
        await graph.make_follow(follower, cy)
    await graph.deliver()
    await graph.end_follow(ana, cy)
    await graph.deliver()
    assert (await graph.user(cy)).follower_count == 1
    assert await graph.streamed(cy) == [bo]
    assert [entry.user.user_id for entry in await graph.edges.followers(cy, before=0, limit=10)] == [bo]


async def test_an_event_of_nobody_changes_nothing(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    assert await graph.followers.apply([AppliedFollow(IDS.next(), ana, bo, following=True)]) == []
    assert (await graph.user(bo)).follower_count == 0


async def test_buckets_are_appended_and_never_split(keyspaces: dict[str, str]) -> None:
    async with cql_graph_stores(keyspaces, capacity=3) as graph:
        star, *fans = await graph.people(8)
        for fan in fans:
            await graph.make_follow(fan, star)
            await graph.deliver()
        assert (await graph.user(star)).follower_count == 7
        assert await graph.streamed(star) == fans
        await graph.end_follow(fans[4], star)
        await graph.end_follow(fans[0], star)
        await graph.deliver()
        await graph.deliver()
        left = [fan for fan in fans if fan not in (fans[0], fans[4])]
        assert await graph.streamed(star) == left
        assert (await graph.user(star)).follower_count == 5
        # The first bucket has room again; the last is the one that grows.
        await graph.make_follow(fans[0], star)
        await graph.deliver()
        assert await graph.streamed(star) == [*left[:-1], fans[0], fans[6]]
        pages = []
        before = 0
        while page := await graph.edges.followers(star, before=before, limit=2):
            pages += [entry.user.user_id for entry in page]
            before = page[-1].place
        assert pages == [fans[0], *reversed(left)]


async def test_many_followers_in_one_batch_fill_buckets_in_turn(keyspaces: dict[str, str]) -> None:
    async with cql_graph_stores(keyspaces, capacity=3) as graph:
        star, *fans = await graph.people(9)
        for fan in fans:
            await graph.make_follow(fan, star)
        await graph.deliver()
        await graph.deliver()
        assert sorted(await graph.streamed(star)) == fans
        assert (await graph.user(star)).follower_count == 8


actions = st.lists(st.tuples(st.booleans(), st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 1)])), min_size=1, max_size=12)


@pytest.mark.parametrize("backend", ["sqlite", "cassandra"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=actions, chance=st.randoms(use_true_random=False), delivered_early=st.integers(0, 12))
def test_counts_are_exact_whatever_the_order_and_number_of_deliveries(
    request: pytest.FixtureRequest,
    backend: str,
    history: list[tuple[bool, tuple[int, int]]],
    chance: object,
    delivered_early: int,
) -> None:
    async def live() -> None:
        opened = (
            sql_graph_stores("sqlite://")
            if backend == "sqlite"
            else cql_graph_stores(request.getfixturevalue("keyspaces"), capacity=1)
        )
        async with opened as graph:
            people = await graph.people(3)
            follows: set[tuple[int, int]] = set()
            for place, (make, (one, other)) in enumerate(history):
                pair = (people[one], people[other])
                if make:
                    await graph.make_follow(*pair)
                    follows.add(pair)
                else:
                    await graph.end_follow(*pair)
                    follows.discard(pair)
                if place == delivered_early:
                    await graph.deliver()
            deliveries = [*graph.events, *graph.events]
            chance.shuffle(deliveries)  # type: ignore[attr-defined]
            for start in range(0, len(deliveries), 3):
                await graph.followers.apply(deliveries[start : start + 3])
            for user_id in people:
                expected = sorted(follower for follower, followee in follows if followee == user_id)
                assert sorted(await graph.streamed(user_id)) == expected
                user = await graph.user(user_id)
                assert user.follower_count == len(expected)
                assert user.following_count == sum(follower == user_id for follower, _ in follows)
                listed = [entry.user.user_id for entry in await graph.edges.followers(user_id, before=0, limit=9)]
                assert sorted(listed) == expected

    asyncio.run(live())


class Dying:
    """A session whose process dies before its nth call."""

    def __init__(self, cql: Cql, calls: int) -> None:
        self._cql = cql
        self._calls = calls

    async def execute_all(self, calls: Sequence[Call]) -> list[list[Row]]:
        self._count()
        return await self._cql.execute_all(calls)

    async def batch_all(self, batches: Sequence[Sequence[Call]]) -> None:
        self._count()
        await self._cql.batch_all(batches)

    def _count(self) -> None:
        if not self._calls:
            raise Unavailable("DEAD")
        self._calls -= 1


@pytest.mark.parametrize("calls", range(8))
async def test_a_consumer_that_dies_half_way_is_completed_by_the_next(keyspaces: dict[str, str], calls: int) -> None:
    async with migrated(keyspaces, "graph_svc.adapters") as cql, cql_graph_stores(keyspaces, capacity=2) as graph:
        star, *fans = await graph.people(7)
        for fan in fans[:2]:
            await graph.make_follow(fan, star)
        await graph.deliver()
        await graph.make_follow(fans[2], star)
        await graph.make_follow(fans[3], star)
        await graph.end_follow(fans[0], star)
        half = graph.events[2:]
        with pytest.raises(Unavailable):
            await CqlFollowers(Dying(cql, calls), capacity=2).apply(half)  # type: ignore[arg-type]
        # Others come first, and would fill the bucket that was meant for the one who was interrupted.
        for fan in fans[4:]:
            await graph.make_follow(fan, star)
            await graph.followers.apply(graph.events[-1:])
        await graph.deliver()
        assert sorted(await graph.streamed(star)) == fans[1:]
        assert (await graph.user(star)).follower_count == 5
        listed = [entry.user.user_id for entry in await graph.edges.followers(star, before=0, limit=9)]
        assert sorted(listed) == fans[1:]
        for fan in fans[1:]:
            await graph.end_follow(fan, star)
        await graph.deliver()
        assert await graph.streamed(star) == []
        assert (await graph.user(star)).follower_count == 0
        assert await graph.edges.followers(star, before=0, limit=9) == []


async def test_two_processes_on_one_postgresql_that_apply_the_same_changes_count_once(
    postgres: Callable[[], str],
) -> None:
    url = postgres()
    async with sql_graph_stores(url) as one, sql_graph_stores(url) as other:
        *fans, star = await one.people(30)
        for round_of in range(5):
            await one.follow(fans, star) if round_of % 2 == 0 else await one.unfollow(fans, star)
            told = one.events[-len(fans) :]
            await asyncio.gather(*(stores.followers.apply([change]) for change in told for stores in (one, other)))
            assert (await other.user(star)).follower_count == (len(fans) if round_of % 2 == 0 else 0)
        assert sorted(await other.streamed(star)) == sorted(fans)
