"""Followers rows and counts stay exact under redelivery, reordering and stale events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from feedmesh.events.v1.graph_events_pb2 import FOLLOW_STATE_FOLLOWING
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.events.envelope import decode
from foundation.model.clock import SystemClock
from foundation.model.ids import Snowflakes
from foundation.sql.database import Database, open_database
from graph_svc.adapters.edges_sql import SqlEdges
from graph_svc.adapters.followers_sql import SqlFollowers
from graph_svc.adapters.tables import GRAPH_TABLES
from graph_svc.adapters.users_sql import SqlUsers
from graph_svc.model import AppliedFollow, FollowChange, FollowOutcome, FollowResult, NewUser

ANA, BO, CY = 1, 2, 3
LIMIT = 7_500


class Graph:
    """The stores over one database in memory, and every event they ever wrote."""

    def __init__(self, database: Database) -> None:
        self.users = SqlUsers(database)
        self.edges = SqlEdges(database)
        self.followers = SqlFollowers(database)
        self.ids = Snowflakes(SystemClock())
        self.events: list[AppliedFollow] = []

    async def people(self) -> None:
        names = [NewUser(user, f"u{user}") for user in (ANA, BO, CY)]
        await self.users.create(names, now_ms=0)

    async def follow(self, follower: int, followee: int, *, limit: int = LIMIT) -> FollowOutcome:
        change = FollowChange(self.ids.next(), follower, followee)
        return self._note(await self.edges.follow([change], limit=limit))

    async def unfollow(self, follower: int, followee: int) -> FollowOutcome:
        return self._note(await self.edges.unfollow([FollowChange(self.ids.next(), follower, followee)]))

    def _note(self, result: FollowResult) -> FollowOutcome:
        for published in result.published:
            for event in published.events:
                envelope = decode(event.value)
                changed = envelope.follow_changed
                following = changed.state == FOLLOW_STATE_FOLLOWING
                self.events.append(AppliedFollow(envelope.version, changed.follower_id, changed.followee_id, following))
        return result.outcomes[0]

    async def count(self, user: int) -> int:
        return (await self.users.get([user]))[user].follower_count

    async def streamed(self, user: int) -> list[int]:
        return [follower async for _, page in self.edges.follower_pages([user]) for follower in page]


@pytest.fixture
async def graph() -> AsyncIterator[Graph]:
    async with open_database("sqlite://", GRAPH_TABLES) as database:
        made = Graph(database)
        await made.people()
        yield made


async def test_a_follow_delivered_twice_counts_once(graph: Graph) -> None:
    await graph.follow(ANA, BO)
    await graph.followers.apply(graph.events)
    await graph.followers.apply(graph.events)
    assert await graph.count(BO) == 1
    assert await graph.streamed(BO) == [ANA]


async def test_a_stale_follow_does_not_undo_a_newer_unfollow(graph: Graph) -> None:
    await graph.follow(ANA, BO)
    await graph.unfollow(ANA, BO)
    followed, unfollowed = graph.events
    await graph.followers.apply([unfollowed])
    assert await graph.followers.apply([followed]) == []
    assert await graph.count(BO) == 0
    assert await graph.streamed(BO) == []


async def test_following_again_changes_nothing_and_publishes_nothing(graph: Graph) -> None:
    assert await graph.follow(ANA, BO) is FollowOutcome.CHANGED
    assert await graph.follow(ANA, BO) is FollowOutcome.UNCHANGED
    assert await graph.unfollow(ANA, CY) is FollowOutcome.UNCHANGED
    assert len(graph.events) == 1


async def test_nobody_follows_across_a_block_or_beyond_the_limit(graph: Graph) -> None:
    ids = (graph.ids.next(), graph.ids.next(), graph.ids.next())
    await graph.edges.block(BO, ANA, change_ids=ids)
    assert await graph.follow(ANA, BO) is FollowOutcome.BLOCKED_BY_THEM
    assert await graph.follow(BO, ANA) is FollowOutcome.BLOCKING_THEM
    assert await graph.follow(ANA, 99) is FollowOutcome.NO_SUCH_USER
    assert await graph.follow(ANA, CY, limit=1) is FollowOutcome.CHANGED
    assert await graph.follow(BO, CY, limit=0) is FollowOutcome.LIMIT_REACHED


actions = st.lists(
    st.tuples(st.booleans(), st.sampled_from([(ANA, BO), (ANA, CY), (BO, CY), (CY, BO)])), min_size=1, max_size=12
)


@settings(max_examples=40, deadline=None)
@given(actions, st.randoms(use_true_random=False))
def test_counts_are_exact_whatever_the_order_and_number_of_deliveries(
    history: list[tuple[bool, tuple[int, int]]], chance: object
) -> None:
    async def live() -> None:
        async with open_database("sqlite://", GRAPH_TABLES) as database:
            graph = Graph(database)
            await graph.people()
            follows: set[tuple[int, int]] = set()
            for make, (follower, followee) in history:
                if make:
                    await graph.follow(follower, followee)
                    follows.add((follower, followee))
                else:
                    await graph.unfollow(follower, followee)
                    follows.discard((follower, followee))
            deliveries = [*graph.events, *graph.events]
            chance.shuffle(deliveries)  # type: ignore[attr-defined]
            for delivery in deliveries:
                await graph.followers.apply([delivery])
            for user in (ANA, BO, CY):
                expected = sorted(follower for follower, followee in follows if followee == user)
                assert sorted(await graph.streamed(user)) == expected
                assert await graph.count(user) == len(expected)

    asyncio.run(live())
