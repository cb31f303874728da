"""An author crosses borders in a mesh with low ones: no post is lost or doubled in any feed, while or after."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.feed.v1.feed_service_pb2_grpc import FeedServiceStub
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.graph.v1.graph_service_pb2_grpc import GraphServiceStub
from feedmesh.graph.v1.user_service_pb2_grpc import UserServiceStub
from feedmesh.post.v1 import post_service_pb2 as post_pb
from feedmesh.post.v1.post_service_pb2_grpc import PostServiceStub
from grpc import aio

import fanout_worker.composition
import fanout_worker.settings
import feed_svc.composition
import feed_svc.settings
import graph_svc.composition
import graph_svc.settings
import post_svc.composition
import post_svc.settings
import rank_svc.composition
import rank_svc.settings
from feedmesh_cli.consumer_groups import CONSUMER_GROUPS
from feedmesh_cli.ports import free_ports
from foundation.cards import author_key, decode_author
from foundation.events.port import EventLog
from foundation.model.clock import SystemClock
from foundation.model.tiers import Tier
from foundation.redis.client import RedisCluster
from foundation.rpc.tokens import DevIssuer
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_log
from foundation.timeline.redis import FEED, RedisTimelines
from tests.kit.eventually import eventually

PULL_FROM, SUPER_FROM = 4, 7
CURSOR_KEY = "00" * 32


@dataclass
class LowMesh:
    """A mesh without an edge, whose authors are pulled from PULL_FROM followers on."""

    settings: MeshSettings
    data: Path
    issuer: DevIssuer
    redis: RedisCluster
    log: EventLog
    users: UserServiceStub
    graph: GraphServiceStub
    feed: FeedServiceStub

    def as_user(self, user: int) -> tuple[tuple[str, str], ...]:
        token = self.issuer.mint(user, f"u{user}", now_s=SystemClock().now_ms() // 1_000)
        return (("authorization", f"Bearer {token}"),)

    async def people(self, count: int) -> list[int]:
        made = [
            await self.users.CreateUser(user_pb.CreateUserRequest(username=f"person{place}"), timeout=5)
            for place in range(count)
        ]
        return [answer.user.user_id for answer in made]

    async def follow(self, followers: Sequence[int], author: int) -> None:
        for follower in followers:
            request = graph_pb.FollowRequest(user_id=author)
            await self.graph.Follow(request, metadata=self.as_user(follower), timeout=5)

    async def unfollow(self, followers: Sequence[int], author: int) -> None:
        for follower in followers:
            request = graph_pb.UnfollowRequest(user_id=author)
            await self.graph.Unfollow(request, metadata=self.as_user(follower), timeout=5)

    async def becomes(self, author: int, tier: Tier) -> None:
        """Wait until writers are told that the author is of *tier*."""

        async def told() -> bool:
            (record,) = await self.redis.execute([("GET", author_key(author))])
            card = decode_author(author, record) if record is not None else None
            return card is not None and card.tier is tier

        await eventually(told)

    async def post(self, author: int, *, worker: int) -> int:
        """By a post_svc that has just started: it knows the author's tier of now, not that of the last minute."""
        (port,) = free_ports(1)
        mesh = replace(self.settings, port=port, worker=worker)
        settings = post_svc.settings.Settings(
            mesh=mesh, database_url=f"sqlite:///{self.data}/posts.db", cursor_key=CURSOR_KEY
        )
        async with post_svc.composition.compose(settings), aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = post_pb.CreatePostRequest(caption="a post")
            answer = await PostServiceStub(channel).CreatePost(request, metadata=self.as_user(author), timeout=5)
        # It has published what it wrote before it stopped.
        await self.settled()
        return int(answer.post_id)

    async def settled(self) -> None:
        async def caught_up() -> bool:
            return not any([await self.log.lag(group, topics) for group, topics in CONSUMER_GROUPS.items()])

        await eventually(caught_up)

    async def seen(self, user: int, mode: feed_pb2.FeedMode.ValueType) -> list[int]:
        request = feed_pb.GetFeedRequest(limit=50, mode=mode)
        page = await self.feed.GetFeed(request, metadata=self.as_user(user), timeout=5)
        return [post.post_id for post in page.posts]

    async def all_see(self, users: Sequence[int], posts: Sequence[int]) -> None:
        """*posts*, newest first, are the LATEST feed of each of *users*, and what the RANKED one consists of."""
        for user in users:
            assert await self.seen(user, feed_pb2.LATEST) == list(posts)
            assert sorted(await self.seen(user, feed_pb2.RANKED), reverse=True) == list(posts)

    async def was_pushed(self, user: int, post: int) -> bool:
        return post in (await RedisTimelines(self.redis, FEED).read([user]))[user].ids


@pytest.fixture
async def mesh(valkey: int, redis: RedisCluster, tmp_path: Path) -> AsyncIterator[LowMesh]:
    async with _low_mesh(valkey, redis, tmp_path) as running:
        yield running


@asynccontextmanager
async def _low_mesh(valkey: int, redis: RedisCluster, data: Path) -> AsyncIterator[LowMesh]:
    names = ("graph_svc", "post_svc", "rank_svc", "fanout_worker", "feed_svc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    issuer = DevIssuer.load_or_create(data)
    base = MeshSettings(
        redis=f"127.0.0.1:{valkey}",
        log_url=f"sqlite:///{data}/log.db",
        jwks_path=str(issuer.jwks_path),
        internal_key="an internal key of a test",
        graph_svc=addresses["graph_svc"],
        post_svc=addresses["post_svc"],
        rank_svc=addresses["rank_svc"],
    )

    def on(name: str, worker: int) -> MeshSettings:
        return replace(base, port=ports[name], worker=worker)

    graph = graph_svc.settings.Settings(
        mesh=on("graph_svc", 1),
        database_url=f"sqlite:///{data}/graph.db",
        cursor_key=CURSOR_KEY,
        tier_pull_from=PULL_FROM,
        tier_super_from=SUPER_FROM,
        tier_job_every_s=0.05,
    )
    posts = post_svc.settings.Settings(
        mesh=on("post_svc", 2), database_url=f"sqlite:///{data}/posts.db", cursor_key=CURSOR_KEY
    )
    worker = fanout_worker.settings.Settings(mesh=on("fanout_worker", 4), inline_up_to=1, pull_from=PULL_FROM)
    feed = feed_svc.settings.Settings(
        mesh=on("feed_svc", 5), database_url=f"sqlite:///{data}/feed.db", cursor_key=CURSOR_KEY
    )
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_log(base))
        await stack.enter_async_context(graph_svc.composition.compose(graph))
        await stack.enter_async_context(post_svc.composition.compose(posts))
        await stack.enter_async_context(
            rank_svc.composition.compose(rank_svc.settings.Settings(mesh=on("rank_svc", 3)))
        )
        await stack.enter_async_context(fanout_worker.composition.compose(worker))
        await stack.enter_async_context(feed_svc.composition.compose(feed))
        to_graph = await stack.enter_async_context(aio.insecure_channel(addresses["graph_svc"]))
        to_feed = await stack.enter_async_context(aio.insecure_channel(addresses["feed_svc"]))
        yield LowMesh(
            settings=base,
            data=data,
            issuer=issuer,
            redis=redis,
            log=log,
            users=UserServiceStub(to_graph),
            graph=GraphServiceStub(to_graph),
            feed=FeedServiceStub(to_feed),
        )


async def test_a_crossing_author_is_neither_lost_nor_doubled_in_any_feed(mesh: LowMesh) -> None:
    ana, *crowd = await mesh.people(9)
    await mesh.all_see(crowd, [])

    await mesh.follow(crowd[:2], ana)
    pushed = await mesh.post(ana, worker=11)
    assert await mesh.was_pushed(crowd[0], pushed)
    await mesh.all_see(crowd[:2], [pushed])

    await mesh.follow(crowd[2:5], ana)
    await mesh.becomes(ana, Tier.PULL)
    pulled = await mesh.post(ana, worker=12)
    assert not await mesh.was_pushed(crowd[0], pulled)
    await mesh.follow(crowd[5:6], ana)
    await mesh.settled()
    await mesh.all_see(crowd[:6], [pulled, pushed])
    await mesh.all_see(crowd[6:], [])

    await mesh.follow(crowd[6:], ana)
    await mesh.becomes(ana, Tier.SUPER)
    cached = await mesh.post(ana, worker=13)
    assert not await mesh.was_pushed(crowd[0], cached)
    await mesh.all_see(crowd, [cached, pulled, pushed])

    await mesh.unfollow(crowd[3:], ana)
    await mesh.becomes(ana, Tier.BOTH)
    both = await mesh.post(ana, worker=14)
    assert await mesh.was_pushed(crowd[0], both)
    await mesh.all_see(crowd[:3], [both, cached, pulled, pushed])
    await mesh.all_see(crowd[3:], [])
