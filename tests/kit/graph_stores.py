"""The stores of graph_svc over every backend, with a little world in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from feedmesh.events.v1.graph_events_pb2 import FOLLOW_STATE_FOLLOWING

from foundation.card_changes import RedisCardChanges
from foundation.events.cql_outbox import CqlOutbox
from foundation.events.envelope import decode
from foundation.events.outbox import Outbox
from foundation.events.port import GRAPH_BY_FOLLOWEE, Event
from foundation.events.sql_outbox import SqlOutbox
from foundation.model.clock import SystemClock, SystemRandomness
from foundation.model.ids import Snowflakes
from foundation.redis.client import RedisCluster
from foundation.sql.database import open_database
from foundation.viewers import ViewerRecord, decode_viewer
from graph_svc.adapters.changes_cql import Changes, graph_sources
from graph_svc.adapters.edges_cql import CqlEdges
from graph_svc.adapters.edges_sql import SqlEdges
from graph_svc.adapters.followers_cql import CqlFollowers
from graph_svc.adapters.followers_sql import SqlFollowers
from graph_svc.adapters.read_models import ReadModelRecords, RecordRows
from graph_svc.adapters.read_models_cql import CqlRecordRows
from graph_svc.adapters.read_models_sql import SqlRecordRows
from graph_svc.adapters.tables import FOLLOWING, GRAPH_CHANGES, GRAPH_TABLES, OPEN_SLOTS
from graph_svc.adapters.tiers_cql import CqlTiers
from graph_svc.adapters.tiers_sql import SqlTiers
from graph_svc.adapters.users_cql import CqlUsers
from graph_svc.adapters.users_sql import SqlUsers
from graph_svc.adapters.versions_cql import Versions
from graph_svc.model import (
    BUCKET_CAPACITY,
    AppliedFollow,
    FollowChange,
    FollowOutcome,
    FollowResult,
    NewUser,
    Published,
    User,
)
from graph_svc.ports import Edges, Followers, ReadModels, Tiers, Users
from tests.kit.cassandra import migrated

BACKENDS = ("sqlite", "postgresql", "cassandra")
LIMIT = 7_500
IDS = Snowflakes(SystemClock())
"""One for all: the stores outlive a test, so everybody in it is new."""


@dataclass(kw_only=True)
class GraphStores:
    """Ports over one store; `events` is what graph.by_followee would hold, in order."""

    users: Users
    edges: Edges
    followers: Followers
    tiers: Tiers
    read_models: ReadModels
    rows: RecordRows
    outbox: Outbox
    changes: Changes | None = None
    """Where a change has two halves."""
    events: list[AppliedFollow] = field(default_factory=list)

    async def people(self, number: int) -> list[int]:
        """New users."""
        new = [NewUser(user_id := IDS.next(), f"u{user_id}") for _ in range(number)]
        await self.users.create(new, now_ms=0)
        return [user.user_id for user in new]

    async def follow(self, followers: Sequence[int], followee: int) -> list[AppliedFollow]:
        """The follows as the log will tell them."""
        changes = [FollowChange(IDS.next(), follower, followee) for follower in followers]
        return self._applied((await self.edges.follow(changes, limit=LIMIT)).published)

    async def unfollow(self, followers: Sequence[int], followee: int) -> list[AppliedFollow]:
        """As follow."""
        changes = [FollowChange(IDS.next(), follower, followee) for follower in followers]
        return self._applied((await self.edges.unfollow(changes)).published)

    async def make_follow(self, follower: int, followee: int, *, limit: int = LIMIT) -> FollowOutcome:
        """One follow; what became of it."""
        change = FollowChange(IDS.next(), follower, followee)
        return self._result(await self.edges.follow([change], limit=limit))

    async def end_follow(self, follower: int, followee: int) -> FollowOutcome:
        """As make_follow."""
        return self._result(await self.edges.unfollow([FollowChange(IDS.next(), follower, followee)]))

    async def block(self, blocker: int, blocked: int) -> list[str]:
        """Block; the topics of what is published."""
        change_ids = (IDS.next(), IDS.next(), IDS.next())
        return self._topics(await self.edges.block(blocker, blocked, change_ids=change_ids))

    async def unblock(self, blocker: int, blocked: int) -> list[str]:
        """Lift a block; the topics of what is published."""
        return self._topics(await self.edges.unblock(blocker, blocked, change_id=IDS.next()))

    async def deliver(self) -> None:
        """Every event so far, to the consumer."""
        await self.followers.apply(self.events)

    async def user(self, user_id: int) -> User:
        """One user."""
        return (await self.users.get([user_id]))[user_id]

    async def streamed(self, user_id: int) -> list[int]:
        """The followers as fan-out reads them."""
        return [follower async for _, page in self.edges.follower_pages([user_id]) for follower in page]

    async def viewer(self, user_id: int) -> ViewerRecord:
        """The viewer record as the rows tell it."""
        viewer = decode_viewer((await self.read_models.viewers([user_id]))[0])
        assert viewer is not None
        return viewer

    def _result(self, result: FollowResult) -> FollowOutcome:
        self._applied(result.published)
        return result.outcomes[0]

    def _topics(self, published: Sequence[Published]) -> list[str]:
        self._applied(published)
        return [event.topic for each in published for event in each.events]

    def _applied(self, published: Sequence[Published]) -> list[AppliedFollow]:
        applied = applied_follows([event for each in published for event in each.events])
        self.events += applied
        return applied


def applied_follows(events: Sequence[Event]) -> list[AppliedFollow]:
    """The follows that *events* tell of."""
    found = []
    for event in events:
        if event.topic == GRAPH_BY_FOLLOWEE:
            envelope = decode(event.value)
            changed = envelope.follow_changed
            following = changed.state == FOLLOW_STATE_FOLLOWING
            found.append(AppliedFollow(envelope.version, changed.follower_id, changed.followee_id, following))
    return found


@asynccontextmanager
async def sql_graph_stores(url: str, redis: RedisCluster | None = None) -> AsyncIterator[GraphStores]:
    """Over SQLAlchemy's *url*; readers are told through *redis*."""
    async with open_database(url, GRAPH_TABLES) as database:
        rows = SqlRecordRows(database)
        yield GraphStores(
            users=SqlUsers(database),
            edges=SqlEdges(database),
            followers=SqlFollowers(database),
            tiers=SqlTiers(database),
            read_models=ReadModelRecords(rows, redis, RedisCardChanges(redis, SystemRandomness())),  # type: ignore[arg-type]
            rows=rows,
            outbox=SqlOutbox(database, OPEN_SLOTS, [FOLLOWING, GRAPH_CHANGES]),
        )


@asynccontextmanager
async def cql_graph_stores(
    keyspaces: dict[str, str], redis: RedisCluster | None = None, *, capacity: int = BUCKET_CAPACITY
) -> AsyncIterator[GraphStores]:
    """Over the run's keyspace; *capacity* followers a bucket."""
    async with migrated(keyspaces, "graph_svc.adapters") as cql:
        versions = Versions(IDS)
        outbox = CqlOutbox(cql, graph_sources(versions), SystemClock(), worker=IDS.node)
        changes = Changes(cql, outbox, versions)
        rows = CqlRecordRows(cql)
        yield GraphStores(
            users=CqlUsers(cql, IDS),
            edges=CqlEdges(cql, changes, IDS),
            followers=CqlFollowers(cql, capacity=capacity),
            tiers=CqlTiers(cql, versions),
            read_models=ReadModelRecords(rows, redis, RedisCardChanges(redis, SystemRandomness())),  # type: ignore[arg-type]
            rows=rows,
            outbox=outbox,
            changes=changes,
        )


@pytest.fixture(params=BACKENDS)
async def graph(request: pytest.FixtureRequest, redis: RedisCluster) -> AsyncIterator[GraphStores]:
    """The stores over each backend."""
    if request.param == "cassandra":
        opened = cql_graph_stores(request.getfixturevalue("keyspaces"), redis)
    else:
        url = "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres")()
        opened = sql_graph_stores(url, redis)
    async with opened as stores:
        yield stores
