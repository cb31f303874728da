"""The stores of graph_svc over one backend, with a consumer's view of what they publish."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from feedmesh.events.v1.graph_events_pb2 import FOLLOW_STATE_FOLLOWING

from foundation.events.envelope import decode
from foundation.model.clock import SystemClock
from foundation.model.ids import Snowflakes
from foundation.redis.client import RedisCluster
from foundation.sql.database import open_database
from foundation.viewers import ViewerRecord, decode_viewer
from graph_svc.adapters.edges_sql import SqlEdges
from graph_svc.adapters.followers_sql import SqlFollowers
from graph_svc.adapters.read_models import ReadModelRecords
from graph_svc.adapters.tables import GRAPH_TABLES
from graph_svc.adapters.tiers_sql import SqlTiers
from graph_svc.adapters.users_sql import SqlUsers
from graph_svc.model import AppliedFollow, FollowChange, FollowResult, NewUser
from graph_svc.ports import Edges, Followers, ReadModels, Tiers, Users

_IDS = Snowflakes(SystemClock())


@dataclass
class GraphStores:
    """Ports over one store; `events` is what graph.by_followee would hold, in order."""

    users: Users
    edges: Edges
    followers: Followers
    tiers: Tiers
    read_models: ReadModels
    events: list[AppliedFollow] = field(default_factory=list)

    async def people(self, count: int) -> list[int]:
        """The ids of *count* new accounts."""
        new = [NewUser(user_id, f"u{user_id}") for user_id in (_IDS.next() for _ in range(count))]
        return [user_id for _, user_id in await self.users.create(new, now_ms=0)]

    async def follow(self, followers: Sequence[int], followee: int) -> list[AppliedFollow]:
        """The follows as the log will tell them."""
        changes = [FollowChange(_IDS.next(), follower, followee) for follower in followers]
        return self._noted(await self.edges.follow(changes, limit=7_500))

    async def unfollow(self, followers: Sequence[int], followee: int) -> list[AppliedFollow]:
        """As follow."""
        return self._noted(
            await self.edges.unfollow([FollowChange(_IDS.next(), follower, followee) for follower in followers])
        )

    async def viewer(self, user_id: int) -> ViewerRecord:
        """The viewer record as the rows tell it."""
        viewer = decode_viewer((await self.read_models.viewers([user_id]))[0])
        assert viewer is not None
        return viewer

    def _noted(self, result: FollowResult) -> list[AppliedFollow]:
        applied = []
        for published in result.published:
            for event in published.events:
                envelope = decode(event.value)
                changed = envelope.follow_changed
                following = changed.state == FOLLOW_STATE_FOLLOWING
                applied.append(AppliedFollow(envelope.version, changed.follower_id, changed.followee_id, following))
        self.events += applied
        return applied


@asynccontextmanager
async def sql_graph_stores(url: str, redis: RedisCluster) -> AsyncIterator[GraphStores]:
    """Over SQLAlchemy's *url*; readers are told through *redis*."""
    async with open_database(url, GRAPH_TABLES) as database:
        yield GraphStores(
            users=SqlUsers(database),
            edges=SqlEdges(database),
            followers=SqlFollowers(database),
            tiers=SqlTiers(database),
            read_models=ReadModelRecords(database, redis),
        )
